"""What each wrapper does, by enumeration and against slow references. The contract suite nests them."""

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from litselect.selectors import (
    HideLearned,
    ImportanceSampling,
    InfoBatch,
    KeepAll,
    LossPercentile,
    Mixture,
    NoiseGuard,
    RandomSubset,
    RankSampling,
    RatedSubset,
    Scheduled,
    Selection,
    Selector,
    ShuffledScores,
    Stratified,
    TopLoss,
)
from tests import shapes
from tests.selectors.registry import WRAPPERS


class Told(Selector):
    """Chooses the rows of given losses, with given weights; notes what it was asked."""

    def __init__(self, keep: float = 0.5, weights: dict[float, float] | None = None) -> None:
        super().__init__(keep)
        self.choice: list[float] = []
        self.of = weights
        self.weighted = weights is not None
        self.asked: list[tuple[int, list[float]]] = []

    def select(self, k: int, *, losses: Tensor) -> Selection:
        self.asked.append((k, losses.tolist()))
        rows = torch.tensor([losses.tolist().index(loss) for loss in self.choice or losses[:k].tolist()])
        weights = (
            None if self.of is None else torch.tensor([self.of[losses[i].item()] for i in rows], dtype=torch.float64)
        )
        return Selection.of(rows, weights)


class ToldFreely(Told):
    probabilistic = True


# ---------------------------------------------------------------------- what all share


@pytest.mark.parametrize("name", WRAPPERS)
def test_only_selectors_are_wrapped(name: str) -> None:
    kinds = {"Mixture": Mixture, "NoiseGuard": NoiseGuard, "Stratified": Stratified, "ShuffledScores": ShuffledScores}
    wrap = kinds.get(name, lambda selector: Scheduled(selector, (1.0, 0.5)))
    with pytest.raises(TypeError, match=rf"{name} wraps a selector, such as .* but got 0.5. Pass the selector first"):
        wrap(0.5)  # pyright: ignore


def test_what_is_set_from_outside_reaches_the_innermost() -> None:
    inner = RankSampling(seed=0)
    inner.rank = 3
    outer = Mixture(NoiseGuard(Stratified(Scheduled(ShuffledScores(inner), (1.0, 0.5)))))
    assert outer.rank == inner.rank == 3, "nothing is lost by wrapping"
    outer.rank, outer.default_seed, outer.progress = 5, 11, 0.5
    assert (inner.rank, inner.default_seed, inner.progress) == (5, 11, 0.5)
    assert inner.current_pressure == pytest.approx(10)
    assert outer.keep == 0.75
    assert outer.count(8) == 6


def test_needs_and_wants() -> None:
    importance = ImportanceSampling(0.5, seed=0)
    assert Mixture(importance).needs == ShuffledScores(importance).needs == {"logits", "targets"}
    assert Stratified(LossPercentile()).needs == {"losses", "targets"}
    assert NoiseGuard(RandomSubset()).needs == {"losses"}
    assert NoiseGuard(RankSampling()).needs == {"percentiles"}
    wrapped = Mixture(ShuffledScores(importance))
    assert wrapped.wants_scores
    wrapped(logits=torch.zeros(8, 2), targets=torch.zeros(8, dtype=torch.int64))
    assert not wrapped.wants_scores
    assert wrapped.wants == frozenset()
    assert Stratified(importance).wants == {"targets"}
    assert len(wrapped(candidates=8)) == 4
    assert len(Stratified(importance)(targets=torch.arange(8) % 2)) == 4


def test_percentiles_stand_in_for_losses() -> None:
    wrapped = Mixture(NoiseGuard(LossPercentile(seed=0)))
    assert len(wrapped(percentiles=torch.rand(8))) == 4
    with pytest.raises(ValueError, match="losses was not given"):
        wrapped(candidates=8)


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_streams_of_wrapper_and_wrapped_differ(name: str) -> None:
    wrapper = WRAPPERS[name](WRAPPERS[name](RandomSubset(seed=7)))
    generators = [wrapper.generator, wrapper.selector.generator, wrapper.selector.selector.generator]  # pyright: ignore
    assert len({tuple(torch.rand(3, generator=g).tolist()) for g in generators}) == 3
    wrapper.rank = 1
    wrapper.reset()
    assert torch.rand(3, generator=wrapper.generator).tolist() != torch.rand(3, generator=generators[0]).tolist()


def test_a_seed_of_the_wrapper_s_own() -> None:
    def stream(*seeds: int | None) -> list[list[int]]:
        torch.manual_seed(0)
        select = Mixture(RandomSubset(seed=seeds[0]), uniform=0.5, seed=seeds[1])
        return [select(candidates=20).indices.tolist() for _ in range(3)]

    assert stream(1, None) == stream(1, None) != stream(2, None)
    assert stream(1, 5) == stream(1, 5) != stream(1, 6)
    assert stream(1, 5) != stream(2, 5)


def test_k_counts_from_all_candidates() -> None:
    told = Told(0.5)
    chosen = NoiseGuard(ShuffledScores(Scheduled(told, (0.5, 0.5))), drop_top=0.25)(losses=torch.arange(16.0))
    assert [(k, len(losses)) for k, losses in told.asked] == [(8, 12)]
    assert len(chosen) == 8


def test_a_count_of_the_selector_s_own_is_asked_for() -> None:
    class AtLeastThree(Told):
        def count(self, n: int) -> int:
            return min(n, max(3, super().count(n)))

    assert len(Mixture(NoiseGuard(ShuffledScores(AtLeastThree(0.1)), 0.0), 0.0)(losses=torch.arange(9.0))) == 3


@pytest.mark.parametrize("wrap", [Stratified, lambda selector: Scheduled(selector, (1.0, 0.5))])
def test_a_free_number_of_rows_can_not_be_dealt_out(wrap: Any) -> None:
    with pytest.raises(ValueError, match=r"chooses how many. Use a selector with a fixed number"):
        wrap(Mixture(LossPercentile(fixed_size=False)))


# ---------------------------------------------------------------------- Mixture


@pytest.mark.parametrize(("uniform", "k"), [(0.0, 3), (0.25, 4), (0.5, 3), (0.9, 2), (0.3, 1), (1.0, 3)])
def test_a_mixture_includes_as_enumerated(uniform: float, k: int) -> None:
    """All sets of m uniform picks, m rounded at random; the others are the highest of the rest."""
    n, runs = 6, 3000
    expected = torch.zeros(n, dtype=torch.float64)
    low = math.floor(uniform * k)
    for m, probability in ((low, 1 - (uniform * k - low)), (low + 1, uniform * k - low)):
        picks = list(itertools.combinations(range(n), min(m, k)))
        for picked in picks:
            rest = [i for i in reversed(range(n)) if i not in picked]
            for i in (*picked, *rest[: k - len(picked)]):
                expected[i] += probability / len(picks)
    measured = torch.zeros(n, dtype=torch.float64)
    select = Mixture(TopLoss(), uniform=uniform, seed=0)
    with shapes.unchecked():
        for _ in range(runs):
            chosen = select(losses=torch.arange(float(n)), k=k).indices
            assert len(set(chosen.tolist())) == k
            measured[chosen] += 1 / runs
    assert expected.min() >= uniform * k / n - 1e-9, "the floor"
    assert (measured - expected).abs().max() < 5 * (0.25 / runs) ** 0.5


class Enumerated(Mixture):
    picks: tuple[int, ...] = ()

    def _pick(self, k: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        rest = [i for i in range(n) if i not in self.picks]
        return torch.tensor(self.picks, dtype=torch.int64), torch.tensor(rest, dtype=torch.int64)


@pytest.mark.parametrize("m", [0, 1, 2, 3])
def test_the_weights_of_a_mixture_are_unbiased_exactly(m: int) -> None:
    """Over all picks, and all choices of a wrapped selector that draws one row with uneven probabilities."""
    losses = torch.tensor([1.0, 2.0, 4.0, 9.0])
    n = len(losses)
    mean = Fraction(0)
    picks = list(itertools.combinations(range(n), m))
    for picked in picks:
        rest = [i for i in range(n) if i not in picked]
        total = sum(losses[i].item() for i in rest)
        for choice in rest:
            p = losses[choice].item() / total
            told = Told(weights={losses[choice].item(): 1 / (len(rest) * p)})
            told.choice = [losses[choice].item()]
            mixture = Enumerated(told)
            mixture.picks = picked
            chosen = mixture(losses=losses, k=m + 1)
            assert chosen.weights is not None
            estimate = (chosen.weights * losses[chosen.indices]).mean().item()
            mean += Fraction(estimate) * Fraction(p) / len(picks)
    assert float(mean) == pytest.approx(losses.mean().item(), rel=1e-9)


def test_all_uniform_picks_of_a_weighing_mixture_weigh_one() -> None:
    told = Told(weights={})
    mixture = Enumerated(told)
    mixture.picks = (0, 2)
    assert mixture(losses=torch.arange(4.0), k=2).weights.tolist() == [1, 1]  # pyright: ignore
    assert told.asked == []


def test_the_weights_of_a_free_mixture_are_unbiased_exactly() -> None:
    """Every subset of picks, and a wrapped selector that flips a coin for each of the rest: w = m / (n pi)."""
    losses = torch.tensor([1.0, 2.0, 4.0, 9.0])
    n, pick, pi = len(losses), 0.25, 0.5
    mean = 0.0
    for size in range(n + 1):
        for picked in itertools.combinations(range(n), size):
            rest = [i for i in range(n) if i not in picked]
            for number in range(len(rest) + 1):
                for chosen_rest in itertools.combinations(rest, number):
                    p = pick**size * (1 - pick) ** (n - size) * pi**number * (1 - pi) ** (len(rest) - number)
                    told = ToldFreely(weights={loss: number / (max(1, len(rest)) * pi) for loss in losses.tolist()})
                    told.choice = losses[list(chosen_rest)].tolist()
                    told.select = lambda k, *, losses, told=told: Selection.of(  # pyright: ignore
                        torch.tensor([losses.tolist().index(x) for x in told.choice], dtype=torch.int64),
                        torch.tensor([told.of[x] for x in told.choice], dtype=torch.float64),  # pyright: ignore
                    )
                    mixture = Enumerated(told)
                    mixture.picks = picked
                    answer = mixture(losses=losses)
                    assert len(answer) == size + number
                    if len(answer):
                        mean += p * (answer.weights.double() * losses[answer.indices]).mean().item()  # pyright: ignore
    assert mean == pytest.approx(losses.mean().item(), rel=1e-9)


def test_a_free_mixture_picks_each_row_with_its_share_of_keep() -> None:
    select = Mixture(ToldFreely(0.4), uniform=0.5, seed=0)
    select.selector.select = lambda k, *, losses: Selection(torch.empty(0, dtype=torch.int64))  # pyright: ignore
    kept = sum(len(select(losses=torch.rand(50))) for _ in range(200)) / 10_000
    assert kept == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 10_000) ** 0.5)


@pytest.mark.parametrize("uniform", [-0.1, 1.1, math.nan])
def test_a_wrong_share_is_refused(uniform: float) -> None:
    with pytest.raises(ValueError, match=rf"in \[0, 1\], but got {uniform}. For one tenth pass 0.1"):
        Mixture(TopLoss(), uniform=uniform)


# ---------------------------------------------------------------------- NoiseGuard


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 6).map(float), min_size=1, max_size=24),
    st.floats(0, 0.6),
    st.floats(0.05, 1),
    st.booleans(),
)
def test_the_highest_are_withheld(losses: list[float], drop_top: float, keep: float, ranked: bool) -> None:
    """Against a sort; ties make the choice of rows free, so losses are compared."""
    n = len(losses)
    told = Told(keep)
    select = NoiseGuard(told, drop_top=drop_top, seed=0)
    select(losses=torch.tensor(losses))
    (k, offered) = told.asked[0]
    assert k == max(1, round(keep * n))
    dropped = min(round(drop_top * n), n - k)
    assert sorted(offered) == sorted(losses)[: n - dropped]


def test_percentiles_withhold_whichever_batch_they_are_in() -> None:
    percentiles = torch.tensor([0.2, 0.96, 0.97, 0.5, 0.99, 0.1, 0.94, 0.3])
    choose = NoiseGuard(TopLoss(1.0), drop_top=0.05)
    losses = torch.arange(8.0)
    assert choose(losses=losses, percentiles=percentiles, k=5).indices.tolist() == [0, 3, 5, 6, 7]
    assert choose(losses=losses, percentiles=percentiles / 2, k=8).indices.tolist() == list(range(8))
    assert choose(losses=losses, percentiles=percentiles / 2, k=3).indices.tolist() == [5, 6, 7]


def test_an_unknown_loss_is_let_through() -> None:
    percentiles = torch.tensor([0.2, 1.0, 0.99, 0.5])
    for seed in range(5):
        chosen = NoiseGuard(RankSampling(0.25, pressure=1e9, seed=seed), drop_top=0.1)(percentiles=percentiles)
        assert chosen.indices.tolist() == [1]


def test_k_comes_first_and_the_lowest_of_the_withheld_come_in() -> None:
    losses = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert NoiseGuard(TopLoss(0.8), drop_top=0.6)(losses=losses).indices.tolist() == [1, 2, 3, 4]
    percentiles = torch.tensor([0.99, 0.1, 0.98, 0.2, 0.97])
    assert NoiseGuard(RankSampling(0.8, seed=0), drop_top=0.1)(percentiles=percentiles).indices.tolist() == [1, 2, 3, 4]


def test_weights_estimate_the_mean_of_the_rest() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0, 1.5, 2.5, 3.5, 0.5, 90.0])
    select = NoiseGuard(ImportanceSampling(0.3, 0.0, score="loss", seed=0), drop_top=0.2)
    runs = 2000
    estimates = torch.empty(runs, dtype=torch.float64)
    values = torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with shapes.unchecked():
        for i in range(runs):
            chosen = select(losses=losses)
            estimates[i] = (chosen.weights.double() * values[chosen.indices]).mean()  # pyright: ignore
    truth = values[losses < 50].mean()
    assert (estimates.mean() - truth).abs() < 5 * estimates.std() / runs**0.5


@pytest.mark.parametrize("ranked", [False, True])
def test_a_ramp_withholds_more_and_more(ranked: bool) -> None:
    told = Told(0.1)
    select = NoiseGuard(told, drop_top=0.4, ramp=0.5, seed=0)
    losses = torch.arange(10.0)
    given = {"losses": losses} | ({"percentiles": (losses + 0.5) / 10} if ranked else {})
    shares = []
    for progress in (0.0, 0.125, 0.25, 0.5, 0.9):
        select.progress = progress
        select(**given)  # pyright: ignore
        shares.append(select.withheld)
    assert shares == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    assert [len(offered) for _, offered in told.asked] == [10, 9, 8, 6, 6]
    assert sorted(told.asked[-1][1]) == list(range(6)), "the lowest are offered"


@pytest.mark.parametrize(
    "settings", [{"ramp": -0.1}, {"ramp": 1.1}, {"ramp": math.nan}, {"drop_top": "auto", "ramp": 0.3}]
)
def test_a_wrong_ramp_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\], beside a share that is given, but got ramp=.* Try ramp=0.3"):
        NoiseGuard(TopLoss(), **settings)


def test_who_follows_the_progress_of_the_training() -> None:
    following = [
        Scheduled(RandomSubset(), (1.0, 0.5)), NoiseGuard(RandomSubset(), 0.2, ramp=0.3), RankSampling(),
        InfoBatch(), HideLearned(), Mixture(NoiseGuard(RandomSubset(), 0.2, ramp=0.3)), NoiseGuard(RankSampling(), 0.2),
    ]  # fmt: skip
    others = [
        RandomSubset(), NoiseGuard(RandomSubset(), 0.2), RankSampling(steps=100), RankSampling(pressure=1.0),
        InfoBatch(anneal=0.0), Mixture(TopLoss()),
    ]  # fmt: skip
    assert [selector for selector in following if not selector.follows_progress] == []
    assert [selector for selector in others if selector.follows_progress] == []


@pytest.mark.parametrize("drop_top", [-0.1, 1.0, math.nan])
def test_a_wrong_share_of_noise_is_refused(drop_top: float) -> None:
    with pytest.raises(ValueError, match=rf"in \[0, 1\), but got {drop_top}. Pass the share of labels"):
        NoiseGuard(TopLoss(), drop_top=drop_top)


# ---------------------------------------------------------------------- Stratified


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.data())
def test_seats_are_dealt_out_by_largest_remainder(labels: list[int], data: st.DataObject) -> None:
    n = len(labels)
    k = data.draw(st.integers(1, n))
    chosen = Stratified(RandomSubset(seed=0))(targets=torch.tensor(labels), k=k).indices.tolist()
    seats = Counter(labels[i] for i in chosen)
    sizes = Counter(labels)
    quotas = {label: Fraction(k * size, n) for label, size in sizes.items()}
    more = {label for label in sizes if seats[label] == math.floor(quotas[label]) + 1}
    assert all(seats[label] in (math.floor(quotas[label]), math.floor(quotas[label]) + 1) for label in sizes)
    assert sum(seats.values()) == k
    remainders = {label: quota - math.floor(quota) for label, quota in quotas.items()}
    if more:
        assert min(remainders[label] for label in more) >= max(
            (remainders[label] for label in sizes.keys() - more), default=Fraction(0)
        )


def test_equal_remainders_are_drawn_by_lot() -> None:
    """Ten classes of one row each, five seats: without lots the last five would never be trained."""
    kept = torch.zeros(10)
    select = Stratified(TopLoss(), seed=0)
    with shapes.unchecked():
        for _ in range(1000):
            kept[select(losses=torch.rand(10), targets=torch.arange(10)).indices] += 1 / 1000
    assert (kept - 0.5).abs().max() < 5 * (0.25 / 1000) ** 0.5


def test_the_wrapped_selector_chooses_within_each_class() -> None:
    losses = torch.tensor([9.0, 0.1, 8.0, 0.3, 7.0, 0.2, 6.0, 0.4])
    targets = torch.tensor([5, -2, 5, -2, 5, -2, 5, -2])
    told = Told()
    Stratified(told)(losses=losses, targets=targets)
    assert [(k, sorted(offered)) for k, offered in told.asked] == [
        (2, pytest.approx([0.1, 0.2, 0.3, 0.4])),
        (2, [6, 7, 8, 9]),
    ]
    assert Stratified(TopLoss())(losses=losses, targets=targets).indices.tolist() == [0, 2, 3, 7]


def test_its_weights_are_unbiased_exactly() -> None:
    """Two classes of 3 and 5 rows, k = 4: seats 1.5 and 2.5, so that 2 + 2 or 1 + 3 are drawn by lot."""
    losses = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0, 40.0, 50.0])
    targets = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    for seed in range(8):
        # The wrapped selector answers with its first rows and weights that give the class mean exactly.
        told = Told(weights={})
        told.select = (
            lambda k, *, losses: Selection(  # pyright: ignore
                torch.arange(k), losses.mean() / losses[:k].double()
            )
        )
        chosen = Stratified(told, seed=seed)(losses=losses, targets=targets)
        assert chosen.weights is not None
        estimate = (chosen.weights * losses[chosen.indices]).mean().item()
        assert estimate == pytest.approx(losses.mean().item())


@pytest.mark.parametrize("targets", [torch.rand(4), torch.rand(4, 2), torch.zeros(4, 2, dtype=torch.int64)])
def test_what_is_no_label_is_refused(targets: Tensor) -> None:
    with pytest.raises(ValueError, match="one class label per candidate, but targets are"):
        Stratified(RandomSubset())(targets=targets)


# ---------------------------------------------------------------------- Scheduled


@pytest.mark.parametrize(("progress", "k"), [(0.0, 16), (0.25, 13), (0.5, 10), (1.0, 4), (2.0, 4), (-1.0, 16)])
def test_keep_runs_in_a_straight_line(progress: float, k: int) -> None:
    for schedule in ((1.0, 0.25), lambda t: 1 - 0.75 * min(1, max(0, t))):
        select = Scheduled(LossPercentile(seed=0), keep=schedule)  # pyright: ignore
        select.progress = progress
        assert len(select(losses=torch.rand(16))) == select.count(16) == k
        assert select.keep == pytest.approx(k / 16, abs=0.04)


def test_before_the_progress_is_known_it_is_the_start() -> None:
    assert Scheduled(TopLoss(0.1), keep=(0.5, 1.0)).keep == 0.5


@pytest.mark.parametrize("keep", [(0.0, 1.0), (1.0, 1.5), (0.5, math.nan), lambda t: 0.0])
def test_a_wrong_schedule_is_refused(keep: Any) -> None:
    with pytest.raises(ValueError, match=r"`keep` is the fraction of each batch that is trained and must stay in"):
        Scheduled(TopLoss(), keep=keep)


def test_a_function_that_leaves_the_range_is_refused_when_it_does() -> None:
    select = Scheduled(TopLoss(), keep=lambda t: 1 - t)
    select.progress = 0.5
    with pytest.raises(ValueError, match=r"but got 0.0"):
        select.progress = 1.0


# ---------------------------------------------------------------------- ShuffledScores


def test_every_row_is_as_likely_whatever_the_scores() -> None:
    n, runs = 8, 1000
    select = ShuffledScores(TopLoss(0.25), seed=0)
    pairs = torch.zeros(n, n)
    with shapes.unchecked():
        for _ in range(runs):
            rows = select(losses=torch.arange(float(n))).indices
            assert len(rows) == 2
            pairs[rows[:, None], rows] += 1 / runs
    expected = torch.full((n, n), 2 / (n * (n - 1))).fill_diagonal_(2 / n)
    assert (pairs - expected).abs().max() < 5 * (0.25 * 0.75 / runs) ** 0.5


def test_rows_without_a_known_loss_stay_where_they_are() -> None:
    """They come first whatever they score; of the others, each is as likely."""
    runs, percentiles = 1000, torch.tensor([0.9, 1.0, 0.8, 0.1, 1.0, 0.2, 0.3, 0.4])
    select, counts = ShuffledScores(LossPercentile(0.5, seed=0), seed=1), torch.zeros(8)
    expected = torch.where(percentiles == 1, 1.0, 2 / 6)
    with shapes.unchecked():
        for _ in range(runs):
            chosen = select(percentiles=percentiles)
            counts[chosen.indices] += 1 / runs
            assert torch.allclose(chosen.inclusion, expected[chosen.indices])  # type: ignore[arg-type] - of a fixed size
    assert counts[percentiles == 1].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert (counts - expected).abs().max() < 5 * (2 / 9 / runs) ** 0.5


@pytest.mark.parametrize("inner", [RatedSubset(0.5, hard=True), RandomSubset(0.5, seed=0)], ids=repr)
def test_who_does_not_go_by_losses_is_shuffled_whether_they_are_known_or_not(inner: Selector) -> None:
    """As beside a table of ratings, where no loss ever is."""
    select, counts, runs = ShuffledScores(inner, seed=1), torch.zeros(10), 400
    with shapes.unchecked():
        for _ in range(runs):
            chosen = select(ratings=torch.arange(10.0), percentiles=torch.ones(10))
            counts[chosen.indices] += 1 / runs
            assert chosen.inclusion.tolist() == [0.5] * 5  # type: ignore[union-attr] - of a fixed size
    assert (counts - 0.5).abs().max() < 5 * (0.25 / runs) ** 0.5


def test_everything_but_the_rows_is_as_without() -> None:
    """Its state goes the same way, and so do number and weights."""
    plain, inner = (ImportanceSampling(0.4, 0.0, score="loss", seed=3) for _ in range(2))
    shuffled = ShuffledScores(inner)
    for i in range(4):
        losses = torch.rand(10) + i
        one, other = plain(losses=losses), shuffled(losses=losses)
        assert sorted(one.weights.tolist()) == sorted(other.weights.tolist())  # pyright: ignore
        assert other.inclusion.tolist() == pytest.approx([0.4] * 4)  # pyright: ignore
    states = plain.state_dict(), inner.state_dict()
    assert states[0]["generator"].equal(states[1]["generator"])
    assert states[0]["switch"]["sum"].equal(states[1]["switch"]["sum"])


@pytest.mark.parametrize(
    "selector",
    [
        KeepAll(),
        RatedSubset(1.0, seed=0),
        Mixture(KeepAll(), seed=0),
        NoiseGuard(KeepAll(), 0.4, seed=0),
        Stratified(KeepAll(), seed=0),
    ],
    ids=repr,
)
def test_keeping_all_is_the_identity_under_every_wrapper(selector: Selector) -> None:
    for wrap in WRAPPERS.values():
        chosen = wrap(selector)(losses=torch.rand(9), ratings=torch.rand(9), targets=torch.arange(9) % 3)
        assert chosen.indices.tolist() == list(range(9))
