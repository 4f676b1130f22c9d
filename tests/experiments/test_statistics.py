"""Tests of significance, against scipy and against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.report.non_inferiority import NonInferiority
from experiments.report.statistics import Spread, holm


def test_p_value_against_scipy() -> None:
    values = [1.0, 2.5, -0.5, 3.5]
    assert Spread.of(values).p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert math.isnan(Spread.of([1.0]).p_value)
    assert Spread.of([0.0, 0.0]).p_value == 1
    assert math.isnan(Spread.of([0.2, 0.2]).p_value)  # chance on a small test set, not certainty
    assert Spread.of([0.2, 0.2]).margin == math.inf
    assert Spread.of([0.2, 0.2]).tells_nothing


def test_differences_of_rounded_shares_are_the_same_difference() -> None:
    """Accuracies are shares in single precision: one image more, of 360, is not quite the same for every seed."""

    def points(right: int) -> float:
        return 100 * float(np.float32(right / 360))

    one_more = Spread.of([points(right + 1) - points(right) for right in (281, 300, 312)])
    assert len({points(right + 1) - points(right) for right in (281, 300, 312)}) > 1
    assert one_more.tells_nothing
    assert math.isnan(one_more.p_value)
    test = NonInferiority(one_more)
    assert (test.verdict, test.bound, test.seeds_needed()) == ("open", -math.inf, None)
    assert Spread.of([1e-6, -2e-6]).p_value == 1
    assert not Spread.of([0.002, 0.0]).tells_nothing  # one image of 50,000


def test_holm() -> None:
    found = holm({"a": 0.04, "b": 0.01, "c": math.nan, "d": 0.03, "e": 0.5})
    assert {name: p for name, p in found.items() if name != "c"} == pytest.approx(
        {"a": 0.09, "b": 0.04, "d": 0.09, "e": 0.5}
    )
    assert math.isnan(found["c"])
    assert holm({"a": 0.8, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_holm_keeps_false_claims_rare_where_single_tests_do_not() -> None:
    random = np.random.default_rng(0)
    single = corrected = 0
    for _ in range(100):
        tests = {str(arm): Spread.of(random.normal(size=5).tolist()).p_value for arm in range(8)}
        single += min(tests.values()) < 0.05
        corrected += min(holm(tests).values()) < 0.05
    assert single > 20
    assert corrected < 13


def test_non_inferiority_against_scipy() -> None:
    values = [-0.1, 0.05, -0.15, 0.1, -0.05]
    test = NonInferiority(Spread.of(values), margin=0.3)
    assert test.p_value == pytest.approx(stats.ttest_1samp(values, -0.3, alternative="greater").pvalue)
    assert test.bound == pytest.approx(np.mean(values) + stats.sem(values) * stats.t.ppf(0.05, 4))
    assert test.verdict == "not worse"
    assert NonInferiority(Spread.of([value - 0.6 for value in values]), margin=0.3).verdict == "worse"
    assert NonInferiority(Spread.of([value - 0.25 for value in values]), margin=0.3).verdict == "open"
    alone = NonInferiority(Spread.of([5.0]))
    assert (alone.verdict, alone.bound, alone.seeds_needed()) == ("open", -math.inf, None)


def test_seeds_needed_have_the_power() -> None:
    test = NonInferiority(Spread(mean=-0.1, std=0.4, count=3), margin=0.3)
    needed = test.seeds_needed()
    assert needed is not None

    def power(seeds: int) -> float:
        runs = np.random.default_rng(0).normal(-0.1, 0.4, (20_000, seeds))
        return float((stats.ttest_1samp(runs, -0.3, axis=1, alternative="greater").pvalue < 0.05).mean())

    assert power(needed - 1) < 0.805
    assert power(needed) > 0.795
    assert NonInferiority(Spread(-0.4, 0.4, 5)).seeds_needed() is None
    assert NonInferiority(Spread(0.1, 0.0, 5)).seeds_needed() is None  # the same for all: chance
    assert NonInferiority(Spread(0.0, 0.0, 5)).seeds_needed() == 2
