"""Equivalent budgets on synthetic curves whose truth is known."""

import math
from typing import Any

import numpy as np
import pytest

from experiments.report.bootstrap import Bootstrap
from experiments.report.error_curve import REACHED_BEFORE, UNREACHED, ErrorCurve, falling
from experiments.report.multiplier import multiplier

BUDGETS = np.array([3.0, 5.0, 10.0, 20.0, 30.0])


def truth(budget: Any) -> Any:
    """The error of uniform training, in percent."""
    return 5 + 60 * np.asarray(budget) ** -0.8


def trial(times: float, budget: float, seeds: int, draw: int, noise: float = 0.02) -> Any:
    """An arm that is worth so many times its budget; seeds shift both arms alike, and each run by itself."""
    random = np.random.default_rng(draw)
    shared = random.normal(0, 0.05, seeds)
    uniform = np.log(truth(BUDGETS)) + shared[:, None] + random.normal(0, noise, (seeds, len(BUDGETS)))
    arm = np.log(truth(times * budget)) + shared + random.normal(0, noise, seeds)
    return multiplier(BUDGETS, uniform, budget, arm)


@pytest.mark.parametrize("times", [0.7, 1.0, 1.3, 1.9, 2.6])
def test_the_truth_is_found_between_budgets(times: float) -> None:
    found = trial(times, 10.0, seeds=3, draw=0, noise=0.0)
    assert found.value == pytest.approx(times, rel=0.01)
    straight = np.exp(np.interp(np.log(truth(10 * times)), np.log(truth(BUDGETS))[::-1], np.log(BUDGETS)[::-1])) / 10
    assert abs(found.value / times - 1) <= abs(straight / times - 1) + 1e-3  # chords flatter the arm


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_the_truth(seeds: int) -> None:
    covers = [(found := trial(1.5, 10.0, seeds, draw)).low <= 1.5 <= found.high for draw in range(50)]
    assert np.mean(covers) >= 0.88  # of 95% that are meant, fewer than 44 in 50 are rare: 1.2% of the times
    few, many = trial(1.5, 10.0, 3, 0), trial(1.5, 10.0, 20, 0)
    assert many.high - many.low < 0.5 * (few.high - few.low)


@pytest.mark.parametrize(("times", "budget"), [(1.01, 3.0), (0.98, 30.0)])
def test_the_interval_covers_the_truth_at_the_ends_of_the_curve(times: float, budget: float) -> None:
    """Where three seeds may all fall beyond it by chance: a bootstrap alone covers it in 35 and 33 of these 40."""
    covers = [(found := trial(times, budget, 3, draw)).low <= times <= found.high for draw in range(40)]
    assert sum(covers) >= 36


def test_an_interval_that_ignores_pairing_would_be_wider() -> None:
    random = np.random.default_rng(0)
    shared = random.normal(0, 0.2, 8)
    uniform = np.log(truth(BUDGETS)) + shared[:, None]
    arm = np.log(truth(15.0)) + shared
    paired = multiplier(BUDGETS, uniform, 10.0, arm)
    mixed = multiplier(BUDGETS, uniform, 10.0, arm[::-1])
    assert paired.high - paired.low < 0.1 < mixed.high - mixed.low


def test_beyond_the_measured_range_there_are_bounds_only() -> None:
    better = trial(9.0, 10.0, seeds=4, draw=0)
    assert better.value == math.inf
    assert str(better) == "> 3.00 (3.00 to > 3.00)"
    worse = trial(0.1, 10.0, seeds=4, draw=0)
    assert worse.value == 0
    assert str(worse) == "< 0.30 (< 0.30 to 0.30)"
    edge = trial(2.9, 10.0, seeds=4, draw=0)
    assert 1 < edge.low < 3
    assert str(edge).endswith("to > 3.00)")


def test_one_seed_has_no_interval_and_the_draws_repeat() -> None:
    assert str(trial(1.0, 10.0, seeds=1, draw=0, noise=0.0)) == "1.00 (one seed)"
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
    assert trial(1.5, 10.0, 5, 0) == trial(1.5, 10.0, 5, 0)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_falling_is_isotonic_regression() -> None:
    from sklearn.isotonic import IsotonicRegression

    values = np.random.default_rng(0).normal(size=(7, 20)) - np.arange(7)[:, None] / 3
    reference = IsotonicRegression(increasing=False)
    expected = np.stack([reference.fit_transform(np.arange(7), column) for column in values.T], axis=1)
    assert falling(values) == pytest.approx(expected)


def test_a_plateau_is_reached_at_its_beginning() -> None:
    curve = ErrorCurve(BUDGETS, np.log([[40.0], [20.0], [10.0], [12.0], [8.0]]))
    assert curve.budget_for(np.log([math.sqrt(10 * 12)]))[0] == pytest.approx(10.0, rel=0.02)
    assert curve.budget_for(np.log([40.0]))[0] == pytest.approx(3.0)
    assert curve.budget_for(np.log([8.0]))[0] == pytest.approx(30.0)
    assert curve.budget_for(np.log([7.9]))[0] == UNREACHED
    assert curve.budget_for(np.log([40.1]))[0] == REACHED_BEFORE


def test_many_curves_are_those_one_by_one() -> None:
    errors = np.log(truth(BUDGETS))[:, None] + np.random.default_rng(0).normal(0, 0.1, (5, 30))
    levels = np.random.default_rng(1).uniform(*np.log(truth([80.0, 2.0])), 30)
    together = ErrorCurve(BUDGETS, errors).budget_for(levels)
    alone = [ErrorCurve(BUDGETS, errors[:, [i]]).budget_for(levels[[i]])[0] for i in range(30)]
    assert together == pytest.approx(np.array(alone))
    assert {UNREACHED, REACHED_BEFORE} < set(together)


def test_resampled_means_are_means_of_resamples() -> None:
    values = np.array([[1.0], [10.0], [100.0]])
    found = Bootstrap(3).means(values)[0]
    possible = {(a + b + c) / 3 for a in values[:, 0] for b in values[:, 0] for c in values[:, 0]}
    assert sorted(found) == pytest.approx(sorted(possible))
