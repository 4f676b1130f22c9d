"""Choices of several batches at once are those of each by itself, to the bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from litselect.selectors import KeepUnlearned, LossPercentile, Selection, Selector, loss_percentile
from tests.selectors.registry import CASES

UNKNOWN = torch.finfo(torch.float32).max

SELECTORS: dict[str, Callable[[], Selector]] = {
    "LossPercentile": lambda: LossPercentile(0.4, seed=3),
    "LossPercentile, floor": lambda: LossPercentile(0.3, floor=0.1, seed=4),
    "LossPercentile, all alike": lambda: LossPercentile(beta=0.0, seed=5),
    "LossPercentile, steep": lambda: LossPercentile(0.02, seed=6),
    "KeepUnlearned": KeepUnlearned,
    "KeepUnlearned, mild": lambda: KeepUnlearned(0.05, 0.5),
}


def test_these_are_all_that_take_blocks() -> None:
    takers = {type(made).__name__ for made in (case.make(0.5, 0) for case in CASES) if made.takes_blocks}
    assert takers == {name.partition(",")[0] for name in SELECTORS}


def scores(batches: int, rows: int, unknown: float, ties: bool, seed: int) -> dict[str, Tensor]:
    """Of B batches of N rows, some of whose losses are not known, or equal. In some batches all losses are known."""
    stream = torch.Generator().manual_seed(seed)
    ranks = torch.rand(batches, rows, generator=stream) * (1 - 2**-24)
    ranks = ranks.mul(3).floor().div(3) if ties else ranks
    never = torch.rand(batches, rows, generator=stream) < unknown * torch.randint(2, (batches, 1), generator=stream)
    return {
        "losses": (ranks * 4).masked_fill(never, UNKNOWN),
        "percentiles": ranks.masked_fill(never, 1.0),
        "ids": torch.randint(1000, (batches, rows), generator=stream),
    }


def one_by_one(selector: Selector, k: int, known: dict[str, Tensor], epoch: int) -> list[Selection]:
    chosen: list[Selection] = []
    for place in range(len(known["ids"])):
        selector.draw_for(epoch, place)
        chosen.append(selector(k=k, **{name: values[place] for name, values in known.items()}))
    return chosen


def at_once(selector: Any, k: int, known: dict[str, Tensor], epoch: int) -> list[Selection]:
    taken = {name: known[name] for name in selector.uses(known.keys())}
    return selector.select_block(k, [(epoch, place) for place in range(len(known["ids"]))], **taken)


def bits(selections: list[Selection]) -> list[Any]:
    return [(own.indices.tolist(), None if own.inclusion is None else own.inclusion.tolist()) for own in selections]


@pytest.mark.parametrize("name", SELECTORS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 9),
    st.integers(1, 70),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
    st.integers(0, 99),
    st.data(),
)
def test_at_once_is_one_by_one(
    name: str, batches: int, rows: int, unknown: float, ties: bool, seed: int, data: st.DataObject
) -> None:
    known, k = scores(batches, rows, unknown, ties, seed), data.draw(st.integers(1, rows))
    one, other = SELECTORS[name](), SELECTORS[name]()
    one.at(None, seed % 5, None)
    other.at(None, seed % 5, None)
    assert bits(at_once(one, k, known, seed % 5)) == bits(one_by_one(other, k, known, seed % 5))
    assert str(one.state_dict()) == str(other.state_dict())


def test_what_is_rounded_with_other_batches_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control for `by_batch`."""
    monkeypatch.setattr(loss_percentile, "by_batch", lambda function, values: function(values))
    select, differ = LossPercentile(0.3, seed=4), 0
    for seed in range(20):
        known = scores(3, 9, 0.0, False, seed)
        differ += bits(at_once(select, 3, known, 0)) != bits(one_by_one(select, 3, known, 0))
    assert differ


def test_draws_of_another_batch_would_be_noticed() -> None:
    """The negative control of the test above."""
    known, select = scores(3, 20, 0.3, False, 0), LossPercentile(0.4, seed=3)
    places = [(1, place) for place in (1, 0, 2)]
    mixed = select.select_block(8, places, percentiles=known["percentiles"])
    assert bits(mixed)[2:] == bits(one_by_one(select, 8, known, 1))[2:]
    assert bits(mixed)[:2] != bits(one_by_one(select, 8, known, 1))[:2]


class Extended(LossPercentile):
    """Tells apart what its parent's `select_block` knows nothing of."""

    def count(self, n: int) -> int:
        return max(1, round((1 - self.progress) * n))


class Otherwise(KeepUnlearned):
    def select(self, k: int, *, losses: Tensor) -> Selection:
        return Selection(torch.arange(k))


def test_a_block_is_for_the_class_that_defines_it() -> None:
    assert not Extended(0.5).takes_blocks
    assert not Otherwise().takes_blocks


def test_independent_draws_are_made_one_by_one() -> None:
    select = LossPercentile(0.5)
    assert select.takes_blocks
    select.fixed_size = False
    assert not select.takes_blocks


class Own(Selector):
    """Takes everything that there is to take."""

    memoryless = True

    def select(
        self, k: int, *, losses: Any, candidates: int, device: torch.device, mean_loss: float = 0.0
    ) -> Selection:
        return Selection.of((losses - mean_loss).abs().topk(k).indices)

    def select_block(
        self, k: int, places: Any, *, losses: Any, candidates: int, device: torch.device, mean_loss: float = 0.0
    ) -> list[Selection]:
        assert losses.shape == (len(places), candidates)
        return [self.select(k, losses=own, candidates=candidates, device=device, mean_loss=mean_loss) for own in losses]


class Anything(Selector):
    """Takes whatever is known."""

    takes = None
    memoryless = True

    def select(self, k: int, *args: Any, **scores: Any) -> Selection:
        return Selection.of(scores["losses"].topk(k).indices)

    def select_block(self, k: int, places: Any, *args: Any, **scores: Any) -> list[Selection]:
        return [self.select(k, losses=own) for own in scores["losses"]]


@pytest.mark.parametrize("make", [Own, Anything, lambda: LossPercentile(0.5, seed=0), KeepUnlearned])
def test_choose_block_hands_over_what_a_call_does(make: Callable[[], Selector]) -> None:
    known = scores(4, 10, 0.0, False, 0)
    flat: dict[str, Any] = {**{name: values.flatten() for name, values in known.items()}, "mean_loss": 1.5}
    places = [(2, place) for place in range(4)]
    expected = []
    for place in places:
        one = make()
        one.draw_for(*place)
        own = {name: values[place[1]] for name, values in known.items()}
        expected.append(one(k=3, mean_loss=1.5, **own))
    assert bits(make().choose_block(places, 10, 3, flat)) == bits(expected)


class Follows(Own):
    follows_progress = True

    select_block = Own.select_block


@pytest.mark.parametrize(("make", "broken"), [(Follows, False), (Own, True), (lambda: Extended(0.5), False)])
def test_what_can_not_be_chosen_at_once_is_not(make: Callable[[], Selector], broken: bool) -> None:
    known = {name: values.flatten() for name, values in scores(2, 4, 0.0, False, 0).items()}
    if broken:
        known["losses"][5] = torch.nan
    assert make().choose_block([(0, 0), (0, 1)], 4, 2, known) == []


@pytest.mark.parametrize("answer", [[torch.tensor([0])] * 2, [Selection(torch.tensor([0]))], torch.zeros(2)])
def test_an_answer_of_another_kind_is_refused(answer: Any) -> None:
    class Wrong(Own):
        def select_block(self, k: int, *args: Any, **scores: Any) -> list[Selection]:
            return answer

    known = {name: values.flatten() for name, values in scores(2, 4, 0.0, False, 0).items()}
    with pytest.raises(TypeError, match=r"Wrong\.select_block must answer with a Selection for each of 2 batches"):
        Wrong().choose_block([(0, 0), (0, 1)], 4, 2, known)


def test_whoever_does_without_is_not_asked() -> None:
    with pytest.raises(NotImplementedError):
        Selector.select_block(Extended(0.5), 1, [])
