"""Selective-Backprop's law, against a slow reference and against what is measured."""

import math
from collections import deque
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from litselect.selectors import LossPercentile, RankSampling, Selector
from litselect.selectors.fixed_size import inclusion_probabilities
from litselect.selectors.loss_history import LossHistory
from tests import shapes
from tests.selectors.faults import BatchRank, WeightedWithoutReplacement


class Reference:
    """The paper's rule, one example at a time."""

    def __init__(self, beta: float, history: int) -> None:
        self.beta = beta
        self.losses: deque[float] = deque(maxlen=history)

    def law(self, batch: list[float]) -> list[float]:
        if len(batch) > (self.losses.maxlen or 0):
            self.losses = deque(maxlen=len(batch))  # a batch is always wholly part of its own history
        for loss in batch:
            self.losses.append(loss)
        return [self.percentile(loss) ** self.beta for loss in batch]

    def percentile(self, loss: float) -> float:
        below = sum(other < loss for other in self.losses)
        equal = sum(other == loss for other in self.losses)
        return (below + equal / 2) / len(self.losses)


def law_of(selector: LossPercentile, batch: Tensor) -> Tensor:
    """P of each row, as `select` computes it: the inclusion of independent draws."""
    selector._losses.append(batch)
    return selector._losses.percentile(batch) ** selector.beta


# Few distinct values, so that there are ties within and between batches.
loss = st.integers(0, 30).map(lambda i: i / 4)
batches = st.lists(st.lists(loss, min_size=1, max_size=12), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(batches, st.integers(1, 20), st.sampled_from([0.0, 0.5, 1.0, 2.0, 9.0]))
def test_the_law_equals_the_reference(stream: list[list[float]], history: int, beta: float) -> None:
    selector, reference = LossPercentile(beta=beta, history=history), Reference(beta, history)
    for batch in stream:
        expected = reference.law(batch)
        assert law_of(selector, torch.tensor(batch)).tolist() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(batches, st.integers(1, 20))
def test_the_history_wraps_like_a_deque(stream: list[list[float]], size: int) -> None:
    history, reference = LossHistory(size), Reference(1.0, size)
    for batch in stream:
        history.append(torch.tensor(batch))
        reference.law(batch)
        oldest_first = torch.roll(history._ring, -history._next)[-history._filled :]
        assert sorted(oldest_first.tolist()) == sorted(reference.losses)
        if history._filled == len(history._ring):
            assert oldest_first.tolist() == list(reference.losses)


def test_a_batch_larger_than_the_history_is_ranked_whole() -> None:
    law = law_of(LossPercentile(0.5, history=2), torch.tensor([4.0, 1.0, 3.0, 2.0]))
    assert law.tolist() == [0.875, 0.125, 0.625, 0.375]


def test_the_first_batch_ranks_itself() -> None:
    assert law_of(LossPercentile(0.5), torch.tensor([7.0])).tolist() == [0.5]
    assert law_of(LossPercentile(0.5), torch.tensor([1.0, 2.0])).tolist() == [0.25, 0.75]
    assert law_of(LossPercentile(beta=2), torch.full((5,), 3.0)).tolist() == [0.25] * 5


def test_select_follows_the_law_that_is_tested_here() -> None:
    """The tests above call the history; this one makes sure that `select` does the same, with U the next draws."""
    selector, twin = LossPercentile(0.5, fixed_size=False, seed=1), LossPercentile(0.5, fixed_size=False, seed=1)
    for seed in range(5):
        batch = torch.rand(50, generator=torch.Generator().manual_seed(seed)) + seed
        chosen = selector(losses=batch).indices
        expected = twin.uniform(50, batch.device) < law_of(twin, batch)
        assert chosen.tolist() == expected.nonzero().squeeze(1).tolist()


def test_gradients_are_not_kept_alive() -> None:
    selector = LossPercentile(0.5, history=4)
    losses = torch.rand(4, requires_grad=True)
    selector(losses=losses * 2)
    assert not selector._losses._ring.requires_grad


# ---------------------------------------------------------------------- measured inclusion

RUNS = 500
N = 8


def shifting(seed: int = 0) -> list[Tensor]:
    """Batches whose difficulty shifts: hard ones after easy ones, ranks within each of them alike."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(N, generator=generator) + 2 * level for level in (0, 3, 1, 0)]


def one_batch_of_all_kinds() -> list[Tensor]:
    return [torch.arange(1.0, N + 1)]


def miss(
    kind: type[LossPercentile], stream: list[Tensor], fixed_size: bool = True, keep: float = 0.5, runs: int = RUNS
) -> float:
    """The largest distance of a measured inclusion from the paper's law, in standard errors, over all batches."""
    reference = Reference(1 / keep - 1, 1024)
    expected = [torch.tensor(reference.law(batch.tolist()), dtype=torch.float64) for batch in stream]
    if fixed_size:
        expected = [inclusion_probabilities(law, max(1, round(keep * N))) for law in expected]
    counts = torch.zeros(len(stream), N, dtype=torch.float64)
    with shapes.unchecked():
        for seed in range(runs):
            selector = kind(keep, fixed_size=fixed_size, seed=seed)
            for i, batch in enumerate(stream):
                counts[i, selector(losses=batch).indices] += 1
    pi = torch.stack(expected)
    certain = (pi < 1e-6) | (pi > 1 - 1e-6)
    if ((counts / runs - pi).abs()[certain] > 1e-6).any():
        return math.inf
    return (((counts / runs - pi).abs() / (pi * (1 - pi) / runs).sqrt())[~certain]).max().item()


@pytest.mark.parametrize("fixed_size", [True, False])
def test_measured_inclusion_follows_the_law_while_difficulty_shifts(fixed_size: bool) -> None:
    assert miss(LossPercentile, shifting(), fixed_size) < 5


@pytest.mark.parametrize("keep", [0.25, 0.75])
def test_measured_inclusion_follows_the_law_at_other_fractions(keep: float) -> None:
    assert miss(LossPercentile, one_batch_of_all_kinds(), keep=keep) < 5


def test_ranking_within_the_batch_would_be_noticed() -> None:
    """Such a selector can't know that a whole batch is easy; with a fixed size it still draws too unevenly there."""
    assert miss(BatchRank, shifting(), fixed_size=False, runs=250) > 10
    assert miss(BatchRank, shifting(), fixed_size=True, runs=300) > 10


def test_drawing_without_replacement_with_p_as_weights_would_be_noticed() -> None:
    assert miss(WeightedWithoutReplacement, one_batch_of_all_kinds()) > 10


def test_a_hard_batch_keeps_more_rows_only_where_the_number_is_free() -> None:
    """What the fixed size gives up."""
    easy, hard = torch.rand(200), torch.rand(200) + 2
    free, fixed = LossPercentile(0.5, fixed_size=False, seed=0), LossPercentile(0.5, seed=0)
    for selector in (free, fixed):
        selector(losses=easy)
    assert len(free(losses=hard)) > 130  # (200 + 100) / 400 of the rows are expected
    assert len(free(losses=easy)) < 90
    assert len(fixed(losses=hard)) == len(fixed(losses=easy)) == 100


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 9.0])
def test_the_expected_kept_fraction_of_independent_draws(beta: float) -> None:
    """1 / (1 + beta) over a stationary stream."""
    selector = LossPercentile(beta=beta, fixed_size=False, seed=0)
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.empty(256).exponential_(generator=generator)  # noqa: E731
    for _ in range(4):
        selector(losses=draw())
    calls = 100
    kept = sum(len(selector(losses=draw())) for _ in range(calls)) / (256 * calls)
    keep = 1 / (1 + beta)
    sigma = (2 * keep / (256 * calls)) ** 0.5  # of the draws, and of the ranks that they depend on
    assert kept == pytest.approx(keep, abs=5 * sigma)


def dropped(kind: type[LossPercentile], runs: int, n: int = 100) -> float:
    """How often one of the hardest 5% is dropped, at keep 0.5."""
    losses = torch.randperm(n, generator=torch.Generator().manual_seed(0)).float()
    hardest = losses.topk(n // 20).indices
    kept = 0
    with shapes.unchecked():
        for seed in range(runs):
            kept += torch.isin(hardest, kind(0.5, seed=seed)(losses=losses).indices).sum().item()
    return 1 - kept / (runs * len(hardest))


def test_the_hardest_are_kept_as_often_as_the_law_says() -> None:
    """P is .955 to .995 there, c is 1: some 2.5% are dropped. Successive draws drop ten times as many."""
    runs = 600
    expected = 1 - (0.955 + 0.995) / 2
    assert dropped(LossPercentile, runs=runs) == pytest.approx(expected, abs=5 * (expected / (5 * runs)) ** 0.5)
    assert dropped(WeightedWithoutReplacement, runs=150) > 0.15


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(("keep", "beta"), [(1.0, 0.0), (0.5, 1.0), (1 / 3, 2.0), (0.1, 9.0)])
def test_keep_stands_for_beta(keep: float, beta: float) -> None:
    assert LossPercentile(keep).beta == pytest.approx(beta)
    assert LossPercentile(beta=beta).keep == pytest.approx(keep)
    assert LossPercentile(beta=beta).count(90) == round(keep * 90)


def test_keep_and_beta_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"`keep` or `beta`.* got keep=0.5 and beta=1.0. Drop one"):
        LossPercentile(0.5, beta=1.0)


@pytest.mark.parametrize("beta", [-1.0, float("inf"), float("nan")])
def test_a_wrong_beta_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"finite beta >= 0"):
        LossPercentile(beta=beta)


@pytest.mark.parametrize("history", [0, -1])
def test_a_wrong_history_is_refused(history: int) -> None:
    with pytest.raises(ValueError, match=rf"history={history}. Use 1024"):
        LossPercentile(0.5, history=history)


def test_the_state_holds_the_history() -> None:
    """Not the random stream alone: with another history the same draws choose other rows."""
    original = LossPercentile(0.5, seed=0)
    for batch in shifting():
        original(losses=batch)
    state = original.state_dict()
    whole, amnesic = LossPercentile(0.5, seed=0), LossPercentile(0.5, seed=0)
    whole.load_state_dict(state)
    amnesic.load_state_dict({**state, "losses": LossHistory(1024).state_dict()})
    rows = [s(losses=torch.linspace(1, 6, 64)).indices.tolist() for s in (original, whole, amnesic)]
    assert rows[0] == rows[1] != rows[2]


def test_extreme_selectivity_still_gives_exactly_k() -> None:
    """P underflows to 0 for nearly all rows."""
    selector = LossPercentile(beta=1e6, seed=0)
    chosen = selector(losses=torch.arange(100.0), k=10).indices
    assert len(chosen) == 10
    assert chosen[-1] == 99


# ---------------------------------------------------------------------- ranks among the whole data set, and a floor


@pytest.mark.parametrize("fixed_size", [True, False])
def test_percentiles_take_the_place_of_the_history(fixed_size: bool) -> None:
    n, beta = 12, 2.0
    generator = torch.Generator().manual_seed(3)
    percentiles = torch.rand(n, generator=generator, dtype=torch.float64)
    selector = LossPercentile(beta=beta, fixed_size=fixed_size, seed=0)
    chosen = selector(percentiles=percentiles, losses=torch.rand(n))
    law = percentiles**beta
    expected = inclusion_probabilities(law, 4) if fixed_size else law
    assert chosen.inclusion is not None
    assert torch.allclose(chosen.inclusion, expected[chosen.indices])
    assert selector._losses._filled == 0, "the history is left as it was"


def test_without_losses_and_percentiles_the_losses_are_asked_for() -> None:
    with pytest.raises(ValueError, match="losses was not given"):
        LossPercentile()(candidates=3)


def test_the_reported_inclusion_is_the_measured_one() -> None:
    counts, reported = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
    with shapes.unchecked():
        for seed in range(RUNS):
            chosen = LossPercentile(0.5, floor=0.3, seed=seed)(losses=torch.arange(1.0, N + 1))
            counts[chosen.indices] += 1 / RUNS
            reported[chosen.indices] = chosen.inclusion
    assert reported.sum().item() == pytest.approx(N / 2)
    assert reported.min() >= 0.3
    assert (counts - reported).abs().max() < 5 * (0.25 / RUNS) ** 0.5


def test_a_floor_raises_independent_draws_to_it() -> None:
    chosen = LossPercentile(beta=3, fixed_size=False, floor=0.25, seed=0)(losses=torch.arange(4000.0))
    law = ((torch.arange(4000.0, dtype=torch.float64) + 0.5) / 4000) ** 3
    assert chosen.inclusion is not None
    assert torch.allclose(chosen.inclusion, law.clamp_min(0.25)[chosen.indices])
    expected = 1 / 4 + 3 / 4 * 0.25 ** (1 + 1 / 3)  # 1/(1+beta) + beta/(1+beta) f^(1+1/beta)
    assert len(chosen) / 4000 == pytest.approx(expected, abs=5 * (0.25 / 4000) ** 0.5)


@pytest.mark.parametrize("floor", [-0.1, 0.6, float("nan")])
def test_a_floor_above_keep_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match=rf"0 <= floor <= keep, but got floor={floor} and keep=0.5"):
        LossPercentile(0.5, floor=floor)


# ---------------------------------------------------------------------- rows without a known loss


SEEN = [0.9, 0.1, 0.5, 0.3, 0.7]


def measured(selector: Callable[[int], Selector], percentiles: list[float], runs: int = 400) -> tuple[Tensor, Tensor]:
    """How often each row was chosen, and how often it was said that it would be."""
    counts, reported = torch.zeros(2, len(percentiles), dtype=torch.float64)
    with shapes.unchecked():
        for seed in range(runs):
            chosen = selector(seed)(percentiles=torch.tensor(percentiles))
            counts[chosen.indices] += 1 / runs
            reported[chosen.indices] = chosen.inclusion.double()  # pyright: ignore
    return counts, reported


KINDS: dict[str, Callable[[int], Selector]] = {
    "law": lambda seed: LossPercentile(0.5, seed=seed),
    "floor": lambda seed: LossPercentile(0.5, floor=0.4, seed=seed),
    "greedy": lambda seed: LossPercentile(beta=1e4, seed=seed),
    "ranks": lambda seed: RankSampling(0.5, pressure=50, seed=seed),
}


@pytest.mark.parametrize("kind", KINDS)
def test_more_unknown_rows_than_places_are_drawn_at_random(kind: str) -> None:
    """Five seen rows and eleven that were never seen, eight places (of the greedy ones, one)."""
    counts, reported = measured(KINDS[kind], [1.0] * 4 + SEEN + [1.0] * 7)
    k = 1 if kind == "greedy" else 8
    unknown = torch.tensor([True] * 4 + [False] * 5 + [True] * 7)
    assert counts[~unknown].sum() == 0
    assert reported[unknown].tolist() == pytest.approx([k / 11] * 11)
    assert (counts[unknown] - k / 11).abs().max() < 5 * (0.25 / 400) ** 0.5


@pytest.mark.parametrize("kind", ["law", "floor", "ranks"])
def test_fewer_unknown_rows_than_places_are_certain_and_the_rest_follows_the_law(kind: str) -> None:
    """Three that were never seen, five seen, four places: the seen ones share one."""
    counts, reported = measured(KINDS[kind], [1.0, *SEEN, 1.0, 1.0])
    unknown = torch.tensor([True] + [False] * 5 + [True] * 2)
    assert counts[unknown].tolist() == pytest.approx([1, 1, 1])
    assert reported[unknown].tolist() == [1, 1, 1]
    ranks = torch.tensor(SEEN, dtype=torch.float64)
    expected = {
        "law": ranks / ranks.sum(),
        "floor": torch.full_like(ranks, 0.2),
        "ranks": 50**ranks / (50**ranks).sum(),
    }
    assert torch.allclose(reported[~unknown], expected[kind], rtol=1e-6)
    assert (counts[~unknown] - expected[kind]).abs().max() < 5 * (0.25 / 400) ** 0.5


def test_a_floor_holds_as_far_as_unknown_rows_leave_room() -> None:
    """Two that were never seen, four seen, four places: the floor of 0.45 fits under a half on average."""
    selector = LossPercentile(beta=1.0, floor=0.45, seed=0)
    chosen = selector(percentiles=torch.tensor([0.01, 1.0, 0.02, 0.9, 1.0, 0.03]), k=4)
    assert chosen.inclusion is not None
    law = torch.tensor([0.01, 0.0, 0.02, 0.9, 0.0, 0.03], dtype=torch.float64)
    expected = 0.45 + 0.2 * law / law.sum()  # of the two places that are left, the floors take 1.8
    expected[[1, 4]] = 1.0
    assert torch.allclose(chosen.inclusion, expected[chosen.indices])


def test_ranks_that_are_all_zero_are_drawn_alike() -> None:
    chosen = LossPercentile(keep=0.5, seed=0)(percentiles=torch.zeros(8))
    assert chosen.inclusion is not None
    assert chosen.inclusion.tolist() == pytest.approx([0.5] * 4)


def test_independent_draws_take_every_unknown_row() -> None:
    counts, reported = measured(lambda seed: LossPercentile(0.1, fixed_size=False, seed=seed), [0.5, 1.0, 0.2, 1.0])
    assert counts[[1, 3]].tolist() == pytest.approx([1, 1])
    assert reported[[1, 3]].tolist() == [1, 1]
    assert counts[[0, 2]].max() < 0.1


def test_a_known_rank_however_high_does_not_come_first() -> None:
    counts, _ = measured(lambda seed: LossPercentile(0.25, seed=seed), [1 - 1e-6, 1 - 1e-6, 1.0, 0.9])
    assert counts.tolist() == [0, 0, pytest.approx(1), 0]
