"""The base class: what it reads off a subclass, and what it says about wrong input."""

import numpy as np
import pytest
import torch
from torch import Tensor

from litselect.selectors import (
    HideLearned,
    KeepAll,
    LossPercentile,
    NoiseGuard,
    RandomSubset,
    RankSampling,
    RatedSubset,
    ReducibleLoss,
    Selection,
    Selector,
    TopLoss,
)
from litselect.selectors.selector import _SOURCES, SCORES
from tests.selectors.specimens import LeastSure


def test_a_subclass_that_asks_for_what_no_one_provides_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Wishful\.select asks for entropy, which no one provides.*losses, logits"):

        class Wishful(Selector):
            def select(self, k: int, *, losses: Tensor, entropy: Tensor) -> Selection: ...


def test_needs_are_read_off_the_signature() -> None:
    class Mixed(Selector):
        def select(self, k: int, *, losses: Tensor, ids: Tensor | None = None, candidates: int) -> Selection:
            assert ids is None
            return Selection(torch.arange(candidates)[:k])

    assert Mixed.needs == {"losses"}
    assert RandomSubset.needs == KeepAll.needs == frozenset()
    assert LeastSure.needs == {"logits", "targets"}
    assert len(Mixed(keep=0.5)(losses=torch.rand(4))) == 2


def test_the_interface_itself_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Selector()  # pyright: ignore


def test_seed_and_generator_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="`seed` or `generator`"):
        RandomSubset(seed=0, generator=torch.Generator())


@pytest.mark.parametrize("kind", [RandomSubset, LossPercentile])
def test_a_given_generator_is_drawn_from_and_shown(kind: type[Selector]) -> None:
    def choose(generator: torch.Generator) -> list[list[int]]:
        selector = kind(0.5, generator=generator)
        assert "generator=<torch" in repr(selector)
        return [selector(losses=torch.arange(20.0)).indices.tolist() for _ in range(3)]

    one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert choose(one) == choose(other)
    assert one.get_state().equal(other.get_state())
    assert not one.get_state().equal(torch.Generator().manual_seed(1).get_state())


def test_the_repr_shows_nothing_that_was_not_given() -> None:
    assert repr(KeepAll()) == "KeepAll()"
    assert repr(RandomSubset(0.25)) == "RandomSubset(keep=0.25)"
    assert repr(LossPercentile(beta=1.0, seed=3)) == (
        "LossPercentile(keep=0.5, history=1024, fixed_size=True, floor=0.0, seed=3)"
    )


@pytest.mark.usefixtures("any_shape")
@pytest.mark.parametrize("shape", [(), (4, 1), (1, 4)])
def test_losses_that_are_not_one_number_a_row_are_refused(shape: tuple[int, ...]) -> None:
    """Not a crash, and no silent ranking along another dimension."""
    with pytest.raises(ValueError, match=r"Expected losses of shape \[N\], but got .* Pass one number per candidate"):
        TopLoss()(losses=torch.rand(shape))


@pytest.mark.usefixtures("any_shape")
def test_logits_without_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected logits of shape \[N, \.\.\.\], but got \(\)"):
        TopLoss()(losses=torch.rand(4), logits=torch.tensor(1.0))


@pytest.mark.usefixtures("any_shape")
def test_scores_that_disagree_about_n_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one row per candidate, but got \{'losses': 4, 'ids': 5\}"):
        TopLoss()(losses=torch.rand(4), ids=torch.arange(5))
    with pytest.raises(ValueError, match=r"'candidates': 5"):
        TopLoss()(losses=torch.rand(4), candidates=5)
    with pytest.raises(ValueError, match="no tensor at all"):
        RandomSubset()()


@pytest.mark.parametrize("candidates", [0, -3])
def test_no_candidates_are_refused(candidates: int) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        RandomSubset()(candidates=candidates)


def test_masked_logits_are_no_error() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [0.0, 0.0], [0.0, 3.0], [0.0, -1.0]])
    assert LeastSure(0.5)(logits=logits, targets=torch.zeros(4, dtype=torch.int64)).indices.tolist() == [1, 2]


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_percentiles_outside_their_range_are_refused(bad: float) -> None:
    message = r"LossPercentile can't rank percentiles .* 1 of 3 rows are NaN or outside \[0, 1\]"
    with pytest.raises(ValueError, match=message):
        LossPercentile(seed=0)(percentiles=torch.tensor([0.0, bad, 1.0]))


def test_what_is_wanted_is_what_is_needed() -> None:
    assert TopLoss().wants == TopLoss.needs == {"losses"}
    assert TopLoss().wants_scores
    assert not RandomSubset().wants_scores


@pytest.mark.parametrize(
    ("selector", "given", "message"),
    [
        (
            RankSampling(),
            {"losses"},
            r"needs percentiles, but percentiles was not given. Call it with percentiles=... \(ranks of the last known "
            r'losses, which a ledger knows: scoring="ledger"\), or use within="batch"',
        ),
        (
            RankSampling(within="batch"),
            {"percentiles"},
            r"Call it with losses=... \(.* from a scoring pass or a ledger\).$",
        ),
        (RatedSubset(), {"losses"}, r"Call it with ratings=... \(a rater's scores\).$"),
        (RatedSubset(within_class=True), {"ratings"}, r"targets=... \(.*\), or use within_class=False"),
        (
            ReducibleLoss(irreducible=torch.zeros(9)),
            {"losses"},
            r"needs ids, losses, but ids was .* Call it with ids=... ",
        ),
        (HideLearned(), {"percentiles"}, r"but confidences was not given. Call it with confidences=... \(.* a ledger"),
        (NoiseGuard(RankSampling(), "auto"), {"percentiles"}, r"but losses, targets was not given"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_missing_score_is_named_with_where_it_comes_from(selector: Selector, given: set[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selector(**{name: torch.rand(4) for name in given})  # pyright: ignore


def test_every_score_has_a_source() -> None:
    assert _SOURCES.keys() == set(SCORES)


def test_keep_all_says_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"KeepAll trains every candidate, but k=2 of N=4 .* RandomSubset"):
        KeepAll()(candidates=4, k=2)


def test_a_selection_orders_its_weights_with_its_rows() -> None:
    selection = Selection.of(torch.tensor([3, 0, 2]), torch.tensor([0.3, 0.0, 0.2]))
    assert selection.indices.tolist() == [0, 2, 3]
    assert Selection.of(torch.tensor([3, 0]), inclusion=torch.tensor([0.3, 0.0])).inclusion.tolist() == pytest.approx(  # pyright: ignore
        [0.0, 0.3]
    )
    assert selection.weights is not None
    assert selection.weights.tolist() == pytest.approx([0.0, 0.2, 0.3])
    assert len(selection) == 3


def test_an_answer_must_be_a_selection() -> None:
    class Bare(Selector):
        def select(self, k: int, *, losses: Tensor) -> Selection:
            return losses.topk(k).indices  # type: ignore[return-value] - the mistake

    with pytest.raises(TypeError, match=r"Bare\.select must answer with a Selection, but got Tensor.*Selection\.of"):
        Bare(0.5)(losses=torch.rand(4))


def test_scores_are_given_by_name() -> None:
    with pytest.raises(TypeError, match=r"Placed\.select takes losses by place.*def select\(self, k, \*, losses\)"):

        class Placed(Selector):
            def select(self, k: int, losses: Tensor) -> Selection: ...


def test_keep_must_be_a_number() -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\], but got '0\.3'"):
        RandomSubset("0.3")  # type: ignore[arg-type] - as from a command line
    assert RandomSubset(np.float32(0.5)).keep == 0.5  # type: ignore[arg-type] - as from an array


@pytest.mark.parametrize("wrong", [torch.tensor([True, False, True]), torch.tensor([0.0, 2.0])])
def test_a_mask_is_no_selection(wrong: Tensor) -> None:
    selection = object.__new__(Selection)  # whose making checks shapes and types in tests alone
    object.__setattr__(selection, "indices", wrong)
    with pytest.raises(TypeError, match=r"positions of the chosen candidates.*pass Selection\(mask\.nonzero"):
        selection.__post_init__()
