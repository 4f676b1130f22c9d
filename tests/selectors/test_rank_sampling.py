"""The exponential rank law and its annealing, against the paper's formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from litselect.selectors import RankSampling
from litselect.selectors.fixed_size import inclusion_probabilities
from litselect.selectors.ranks import mid_ranks
from tests import shapes


def paper(n: int, pressure: float) -> list[float]:
    """p_i for i = 1 (hardest) to n, as printed: 1 / exp(log(s) / n) ** i, normalised."""
    p = [1 / math.exp(math.log(pressure) / n) ** i for i in range(1, n + 1)]
    return [x / sum(p) for x in p]


@pytest.mark.parametrize("pressure", [1.0, 10.0, 100.0, 1e8])
def test_the_law_is_the_papers(pressure: float) -> None:
    """All examples of a data set as candidates, k = 1: the paper's own probabilities."""
    n = 50
    percentiles = torch.arange(n, 0, -1, dtype=torch.float64) / n  # hardest first
    percentiles = percentiles - 0.5 / n  # mid-ranks: a common factor of the law
    law = pressure**percentiles
    assert inclusion_probabilities(law, 1).tolist() == pytest.approx(paper(n, pressure), rel=1e-9)
    chosen = RankSampling(pressure=pressure, seed=0)(percentiles=percentiles, k=1)
    assert chosen.inclusion is not None
    assert chosen.inclusion.item() == pytest.approx(paper(n, pressure)[int(chosen.indices)], rel=1e-9)


@pytest.mark.parametrize("within", ["dataset", "batch"])
def test_measured_inclusion_follows_the_law(within: str) -> None:
    n, runs = 8, 1000
    percentiles = torch.tensor([0.05, 0.1, 0.3, 0.35, 0.6, 0.7, 0.9, 0.95])
    kept = torch.zeros(n, dtype=torch.float64)
    with shapes.unchecked():
        for seed in range(runs):
            selector = RankSampling(0.5, pressure=30, within=within, seed=seed)  # pyright: ignore
            kept[selector(percentiles=percentiles, losses=percentiles).indices] += 1 / runs
    ranks = percentiles.double() if within == "dataset" else (torch.arange(n, dtype=torch.float64) + 0.5) / n
    expected = inclusion_probabilities(30**ranks, 4)
    sigma = (expected * (1 - expected) / runs).sqrt()
    assert ((kept - expected).abs() <= 5 * sigma + 1e-9).all()


def test_within_the_batch_a_hard_batch_looks_like_an_easy_one() -> None:
    selector, twin = (RankSampling(within="batch", seed=0) for _ in range(2))
    losses = torch.rand(20)
    assert selector(losses=losses).indices.equal(twin(losses=losses * 10 + 5).indices)
    assert RankSampling(within="batch").needs == {"losses"}
    assert RankSampling().needs == {"percentiles"}


def test_the_pressure_falls_exponentially_over_the_steps() -> None:
    selector = RankSampling(pressure=100, pressure_end=1, steps=4, seed=0)
    pressures = []
    for _ in range(6):
        pressures.append(selector.current_pressure)
        selector(percentiles=torch.rand(4))
    assert pressures == pytest.approx([100 * math.exp(math.log(1 / 100) * t / 4) for t in (0, 1, 2, 3, 4, 4)])


def test_without_steps_it_follows_the_progress_of_the_training() -> None:
    selector = RankSampling(pressure=100, pressure_end=4, seed=0)
    for progress, expected in ((0.0, 100), (0.5, 20), (1.0, 4), (1.5, 4)):
        selector.progress = progress
        selector(percentiles=torch.rand(4))
        assert selector.current_pressure == pytest.approx(expected)


def test_no_pressure_is_uniform_and_a_huge_one_is_greedy() -> None:
    percentiles = torch.randperm(20, generator=torch.Generator().manual_seed(0)) / 20
    chosen = RankSampling(0.25, pressure=1, seed=0)(percentiles=percentiles)
    assert chosen.inclusion.tolist() == pytest.approx([0.25] * 5)  # pyright: ignore
    chosen = RankSampling(0.25, pressure=1e300, seed=0)(percentiles=percentiles)
    assert chosen.indices.tolist() == percentiles.topk(5).indices.sort().values.tolist()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=12))
def test_mid_ranks_equal_a_count(rows: list[tuple[int, int]]) -> None:
    scores = torch.tensor([float(score) for score, _ in rows])
    labels = torch.tensor([label for _, label in rows])
    for classes in (None, labels):
        expected = []
        for score, label in rows:
            peers = [s for s, c in rows if classes is None or c == label]
            expected.append((sum(s < score for s in peers) + sum(s == score for s in peers) / 2) / len(peers))
        assert mid_ranks(scores, classes).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pressure": 0.5},
        {"pressure": math.inf},
        {"pressure_end": math.nan},
        {"steps": 0},
        {"within": "epoch"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RankSampling(**wrong)  # pyright: ignore
