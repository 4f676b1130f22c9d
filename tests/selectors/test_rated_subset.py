"""Gumbel-top-k against successive draws, and the filter, and ranks within the class."""

import itertools
import math

import pytest
import torch

from litselect.selectors import RatedSubset
from tests import shapes


def successive(ratings: list[float], k: int, temperature: float) -> dict[tuple[int, ...], float]:
    """The reference: the probability of every set, drawn row by row from the softmax of what is left."""
    law = [math.exp(r / temperature) for r in ratings]
    sets: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(ratings)), k):
        probability, left = 1.0, sum(law)
        for i in order:
            probability *= law[i] / left
            left -= law[i]
        rows = tuple(sorted(order))
        sets[rows] = sets.get(rows, 0.0) + probability
    return sets


@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (2, 1.0), (2, 3.0), (3, 0.5)])
def test_every_set_is_as_likely_as_by_successive_draws(k: int, temperature: float) -> None:
    ratings, runs = [0.0, 1.0, -0.5, 2.0], 3000
    selector = RatedSubset(temperature=temperature, seed=0)
    counts: dict[tuple[int, ...], float] = {}
    with shapes.unchecked():
        for _ in range(runs):
            rows = tuple(selector(ratings=torch.tensor(ratings), k=k).indices.tolist())
            counts[rows] = counts.get(rows, 0.0) + 1 / runs
    for rows, expected in successive(ratings, k, temperature).items():
        assert counts.get(rows, 0.0) == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / runs))


def test_only_the_first_draw_follows_the_softmax() -> None:
    """What the docstring warns of: k times the softmax exceeds what is included."""
    ratings = [0.0, 1.0, -0.5, 2.0]
    total = sum(map(math.exp, ratings))
    first = successive(ratings, 1, 1.0)
    assert first[(3,)] == pytest.approx(math.exp(2) / total)
    included = sum(p for rows, p in successive(ratings, 2, 1.0).items() if 3 in rows)
    assert included < min(1, 2 * math.exp(2) / total)


def test_hard_is_the_top() -> None:
    ratings = torch.tensor([0.5, 2.0, 2.0, -1.0, 2.0])
    assert RatedSubset(0.4, hard=True)(ratings=ratings).indices.tolist() == [1, 2]
    cold = RatedSubset(0.6, temperature=1e-6, seed=0)(ratings=ratings)
    assert cold.indices.tolist() == [1, 2, 4]


def test_ranks_within_the_class_starve_no_class() -> None:
    """All of class 1 is rated lower than all of class 0."""
    targets = torch.tensor([0, 1] * 8)
    ratings = torch.arange(16.0) - 100 * targets
    assert set(targets[RatedSubset(0.5, hard=True)(ratings=ratings).indices].tolist()) == {0}
    chosen = RatedSubset(0.5, hard=True, within_class=True)(ratings=ratings, targets=targets).indices
    assert chosen.tolist() == list(range(8, 16))
    drawn = RatedSubset(0.5, 0.1, within_class=True, seed=0)(ratings=ratings, targets=targets).indices
    assert 2 <= targets[drawn].sum() <= 6


def test_ranks_within_the_class_need_labels() -> None:
    assert RatedSubset().needs == {"ratings"}
    with pytest.raises(ValueError, match="targets was not given"):
        RatedSubset(within_class=True)(ratings=torch.rand(3))
    with pytest.raises(ValueError, match=r"one class label per candidate, but targets have shape \(3, 2\)"):
        RatedSubset(within_class=True)(ratings=torch.rand(3), targets=torch.rand(3, 2))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_wrong_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="finite temperature > 0, but got"):
        RatedSubset(temperature=temperature)
