"""InfoBatch against a loop over rows; what its weights estimate, by enumeration; when it stops pruning."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from litselect.selectors import InfoBatch, Mixture, NoiseGuard, Selection, ShuffledScores
from litselect.selectors.elapsed import elapsed
from litselect.selectors.never_seen import never_seen

UNKNOWN = torch.finfo(torch.float32).max


class Told(InfoBatch):
    """Draws what it is told."""

    draws: list[float]

    def uniform(self, n: int, device: torch.device) -> Tensor:
        return torch.tensor(self.draws, dtype=torch.float64)


def told(draws: list[float], **settings: float) -> Told:
    selector = Told(**settings)  # pyright: ignore
    selector.draws = draws
    return selector


def reference(losses: list[float], mean: float, draws: list[float], r: float, normalised: bool) -> dict[int, float]:
    """Weights by row, one row at a time."""
    weights: dict[int, float] = {}
    for i, (loss, u) in enumerate(zip(losses, draws, strict=True)):
        if loss >= mean or loss == UNKNOWN:
            weights[i] = 1.0
        elif u >= r:
            weights[i] = 1 / (1 - r)
    share = len(weights) / len(losses) if normalised else 1.0
    return {i: weight * share for i, weight in weights.items()}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_it_equals_a_loop_over_rows(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    loss = st.one_of(st.integers(-8, 40).map(lambda i: i / 4), st.just(UNKNOWN))
    losses = data.draw(st.lists(loss, min_size=n, max_size=n))
    draws = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=n, max_size=n))
    r, normalised = data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9])), data.draw(st.booleans())
    mean = data.draw(st.one_of(st.none(), st.floats(0, 10)))
    chosen = told(draws, prune=r, normalised=normalised)(losses=torch.tensor(losses), mean_loss=mean)
    if mean is None:
        known = [x for x in losses if x != UNKNOWN]
        mean = sum(known) / len(known) if known else 0.0
    if any(0 < abs(x - mean) <= 2e-6 * abs(mean) for x in losses):
        return  # rounding decides
    mean -= 1e-6 * abs(mean)
    expected = reference(losses, mean, draws, r, normalised)
    assert chosen.weights is not None
    assert chosen.indices.tolist() == list(expected)
    assert chosen.weights.tolist() == pytest.approx(list(expected.values()))


# ---------------------------------------------------------------------- what is estimated


def expectations(losses: list[int], mean: Fraction, r: Fraction, normalised: bool) -> tuple[Fraction, Fraction]:
    """Over all patterns of kept rows: of the mean of w * l over the chosen, and of that mean times |S| / N."""
    low = [i for i, loss in enumerate(losses) if loss < mean]
    mean_form = sum_form = Fraction(0)
    for kept in itertools.product([False, True], repeat=len(low)):
        probability = math.prod(((1 - r) if keep else r for keep in kept), start=Fraction(1))
        draws = [0.0] * len(losses)
        for i, keep in zip(low, kept, strict=True):
            draws[i] = 0.999 if keep else 0.0
        selector = told(draws, prune=float(r), normalised=normalised)
        chosen = selector(losses=torch.tensor(losses, dtype=torch.float32), mean_loss=float(mean))
        if len(chosen) == 0:
            continue  # a skip: nothing is added
        assert chosen.weights is not None
        weighted = [
            Fraction(weight).limit_denominator(1000) * losses[i]
            for i, weight in zip(chosen.indices.tolist(), chosen.weights.tolist(), strict=True)
        ]
        mean_form += probability * sum(weighted) / len(chosen)
        sum_form += probability * sum(weighted) / len(losses)
    return mean_form, sum_form


@pytest.mark.parametrize("r", [Fraction(1, 2), Fraction(1, 4)])
@pytest.mark.parametrize(
    ("losses", "mean"),
    [
        ([1, 2, 4, 9], Fraction(4)),
        ([1, 1, 2, 3, 30], Fraction(37, 5)),
        ([1, 2, 3], Fraction(100)),  # all below the mean of the data set: none may be left
        ([5, 6], Fraction(1)),
    ],
)
def test_what_each_form_estimates_exactly(losses: list[int], mean: Fraction, r: Fraction) -> None:
    """Normalised: the mean over the chosen is unbiased. As published: that mean, counted once for each chosen row."""
    truth = Fraction(sum(losses), len(losses))
    nothing_is_low = min(losses) >= mean
    mean_form, sum_form = expectations(losses, mean, r, normalised=True)
    assert mean_form == truth
    assert (sum_form == truth) == nothing_is_low
    mean_form, sum_form = expectations(losses, mean, r, normalised=False)
    assert sum_form == truth
    if max(losses) < mean:  # N / |S| steps of weight 1 / (1 - r): the mean over S is the mean over S of l / (1 - r)
        assert mean_form != truth
    else:
        assert (mean_form > truth) != nothing_is_low, "larger steps, fewer of them"


def test_the_published_mean_is_larger_by_n_over_s() -> None:
    losses, draws = torch.tensor([1.0, 2.0, 3.0, 30.0]), [0.9, 0.1, 0.9, 0.0]
    published, normalised = told(draws)(losses=losses), told(draws, normalised=True)(losses=losses)
    assert published.weights is not None
    assert normalised.weights is not None
    assert published.weights.tolist() == [2, 2, 1]
    assert torch.allclose(published.weights, normalised.weights * 4 / 3)


# ---------------------------------------------------------------------- which rows can be dropped


def test_the_mean_of_the_data_set_decides_where_it_is_known() -> None:
    hard_batch = torch.tensor([5.0, 6.0, 7.0, 8.0])
    assert len(told([0.0] * 4)(losses=hard_batch, mean_loss=1.0)) == 4
    assert len(told([0.0] * 4)(losses=hard_batch, mean_loss=10.0)) == 0
    assert told([0.0] * 4)(losses=hard_batch).indices.tolist() == [2, 3]


def test_equal_losses_are_not_below_their_mean() -> None:
    """Nor by rounding: a mean that was computed in another precision may come out above."""
    for value in (0.1, 1 / 3, 2.3025851):
        losses = torch.full((7,), value)
        for mean in (None, float(losses.double().mean()) * (1 + 1e-7)):
            assert len(told([0.0] * 7)(losses=losses, mean_loss=mean)) == 7
    assert len(told([0.0] * 7)(losses=torch.full((7,), 0.1), mean_loss=0.1001)) == 0


@pytest.mark.parametrize(
    "signs",
    [
        {"losses": torch.tensor([0.1, UNKNOWN, 0.1, 0.4])},
        {"percentiles": torch.tensor([0.2, 1.0, 0.2, 0.9])},
        {"ages": torch.tensor([1.0, torch.inf, 0.0, 2.0])},
    ],
    ids=lambda signs: next(iter(signs)),
)
def test_rows_without_a_known_loss_are_kept(signs: dict[str, Tensor]) -> None:
    """And don't count for the mean."""
    inputs = {"losses": torch.tensor([0.1, 0.1, 0.1, 0.4]), **signs}
    for mean in (None, 0.2):
        chosen = told([0.0] * 4)(**inputs, mean_loss=mean)  # pyright: ignore
        assert chosen.indices.tolist() == [1, 3]
        assert chosen.weights is not None
        assert chosen.weights.tolist() == [1, 1]
    without = told([0.0] * 4)(losses=torch.tensor([0.1, 0.1, 0.1, 0.4]))
    assert without.indices.tolist() == [3], "without the sign it would have been dropped"


def test_with_no_known_loss_at_all_everything_is_kept() -> None:
    losses = torch.full((5,), UNKNOWN)
    for mean in (None, math.nan, 0.3):
        assert len(told([0.0] * 5)(losses=losses, mean_loss=mean)) == 5
    assert never_seen(losses).all()
    assert not never_seen(torch.tensor([1e30])).any()


def test_the_inclusion_is_told() -> None:
    chosen = told([0.9, 0.0, 0.9, 0.0], prune=0.25)(losses=torch.tensor([0.1, 0.1, 0.4, 9.0]))
    assert chosen.inclusion is not None
    assert chosen.inclusion.tolist() == [0.75, 0.75, 1.0]


def test_rows_are_dropped_with_probability_prune() -> None:
    losses = torch.cat([torch.zeros(2000), torch.full((10,), 100.0)])
    chosen = InfoBatch(prune=0.3, seed=0)(losses=losses)
    assert (len(chosen) - 10) / 2000 == pytest.approx(0.7, abs=5 * (0.21 / 2000) ** 0.5)


def test_broken_ranks_and_ages_are_refused() -> None:
    for name in ("percentiles", "ages"):
        with pytest.raises(ValueError, match=rf"can't rank {name} .* 1 of 3"):
            InfoBatch()(losses=torch.rand(3), **{name: torch.tensor([0.0, math.nan, 1.0])})  # pyright: ignore


# ---------------------------------------------------------------------- annealing


@pytest.mark.parametrize(
    ("epochs", "anneal", "pruning"),
    [
        *[(9, 0.125, 7), (30, 0.125, 26), (200, 0.125, 175), (8, 0.125, 7), (1, 0.125, 0)],
        *[(10, 0.9, 1), (10, 0.7, 3), (10, 0.0, 10), (10, 1.0, 0), (3, 1 / 3, 2), (7, 1 / 7, 6)],
    ],
)
def test_it_prunes_in_so_many_epochs(epochs: int, anneal: float, pruning: int) -> None:
    """9 and 30 epochs are those in which the published code never stops; 10 * (1 - 0.9) is 0.9999..."""
    selector = InfoBatch(anneal=anneal)
    selector.epochs = epochs
    prunes = []
    for epoch in range(epochs):
        selector.epoch, selector.progress = epoch, 0.0  # epochs decide
        prunes.append(not selector.annealing)
        assert selector.wants_scores is prunes[-1]
    assert prunes == [True] * pruning + [False] * (epochs - pruning)


def test_without_a_number_of_epochs_the_progress_decides() -> None:
    selector = InfoBatch(anneal=0.25)
    for progress, annealing in ((0.0, False), (0.74, False), (0.75, True), (1.0, True)):
        selector.progress = progress
        assert selector.annealing is annealing


def test_while_it_anneals_all_rows_are_trained_without_weights() -> None:
    selector = told([0.0] * 4)
    selector.progress = 1.0
    for inputs in ({"losses": torch.arange(4.0)}, {"candidates": 4}):
        chosen: Selection = selector(**inputs)  # pyright: ignore
        assert chosen.indices.tolist() == [0, 1, 2, 3]
        assert chosen.weights is None
    selector.progress = 0.0
    with pytest.raises(ValueError, match="losses was not given"):
        selector(candidates=4)


def test_wrappers_hand_the_epochs_on() -> None:
    inner = InfoBatch()
    outer = Mixture(NoiseGuard(ShuffledScores(inner)))
    outer.epochs, outer.epoch = 8, 7
    assert inner.annealing
    assert outer.wants == {"losses"}, "the guard's own"


def test_elapsed_is_monotone() -> None:
    for epochs in range(1, 40):
        for share in (0.0, 0.1, 0.3, 0.6, 0.8, 0.875, 1.0):
            over = [elapsed(share, epoch, epochs, 0.0) for epoch in range(epochs + 1)]
            assert over == sorted(over)
            assert over[-1], "it ends at the latest with the training"
            assert sum(not x for x in over) == math.floor(Fraction(share).limit_denominator(1000) * epochs)


@pytest.mark.parametrize(
    "wrong", [{"prune": 1.0}, {"prune": -0.1}, {"prune": math.nan}, {"anneal": 1.1}, {"anneal": -0.1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"got .*{name}={value}"):
        InfoBatch(**wrong)  # pyright: ignore
