"""Draws of exactly k rows that include each row as often as they should."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from litselect.selectors import fixed_size
from litselect.selectors.fixed_size import inclusion_probabilities, systematic_sample
from tests import shapes

TINY = torch.finfo(torch.float64).tiny


def reference(law: list[float], k: int) -> list[float]:
    """Scale, cap what exceeds 1, scale the rest again, until nothing does. In exact arithmetic."""
    pi: list[Fraction | None] = [None] * len(law)
    weights = [Fraction(max(p, TINY)) for p in law]
    while True:
        free = [i for i, value in enumerate(pi) if value is None]
        left = k - (len(pi) - len(free))
        total = sum(weights[i] for i in free)
        scaled = {i: weights[i] * left / total for i in free}
        over = [i for i in free if scaled[i] >= 1]
        if left == 0 or not over:
            return [float(scaled[i]) if value is None else 1.0 for i, value in enumerate(pi)]
        for i in over:
            pi[i] = Fraction(1)


probability = st.one_of(
    st.just(0.0),
    st.just(1.0),
    st.floats(0, 1),
    st.floats(-300, 300).map(lambda exponent: 10.0**exponent),
    st.sampled_from([1e-12, 0.5, 1 / 3, TINY]),
)


@st.composite
def laws(draw: st.DrawFn) -> tuple[list[float], int]:
    law = draw(st.lists(probability, min_size=1, max_size=24))
    return law, draw(st.integers(1, len(law)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(laws())
def test_inclusion_equals_the_iterative_reference(case: tuple[list[float], int]) -> None:
    law, k = case
    pi = inclusion_probabilities(torch.tensor(law, dtype=torch.float64), k)
    assert pi.tolist() == pytest.approx(reference(law, k), rel=1e-9, abs=1e-12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(laws(), st.sampled_from([0.0, 0.1, 0.3, 0.9]), st.data())
def test_the_first_come_before_all_others(case: tuple[list[float], int], floor: float, data: st.DataObject) -> None:
    """At random if there are more than k; otherwise all of them, and the others share the rest as if alone."""
    law, k = case
    n = len(law)
    first = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    m = sum(first)
    others = [p for p, is_first in zip(law, first, strict=True) if not is_first]
    alone = torch.tensor(others, dtype=torch.float64).clamp(1e-200, 1)  # of smaller ones the digits are not kept
    rest = [0.0] * (n - m) if m >= k else inclusion_probabilities(alone, k - m, floor).tolist()
    expected = [min(1, k / m) if is_first else rest.pop(0) for is_first in first]
    given = torch.tensor(law, dtype=torch.float64).clamp(1e-200, 1)
    pi = inclusion_probabilities(given, k, floor, torch.tensor(first))
    assert pi.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    if m == 0:
        assert pi.equal(inclusion_probabilities(given, k, floor))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fixed_size, "known_empty", lambda mask: False)  # as on an accelerator
            assert pi.equal(inclusion_probabilities(given, k, floor, torch.tensor(first))), "to the last digit"


def test_the_first_come_before_all_others_in_single_precision() -> None:
    """Where a device has no other."""
    law, first = torch.tensor([1.0, 1e-6, 0.5, 0.0]), torch.tensor([False, False, True, True])
    assert inclusion_probabilities(law, 1, 0.0, first).tolist() == pytest.approx([0, 0, 0.5, 0.5], abs=1e-9)
    assert inclusion_probabilities(law, 3, 0.0, first).tolist() == pytest.approx([1, 1e-6, 1, 1], rel=1e-3)
    assert inclusion_probabilities(law, 3, 0.2, first).tolist() == pytest.approx([0.8, 0.2, 1, 1], rel=1e-3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(laws())
def test_inclusion_sums_to_k_and_keeps_the_order(case: tuple[list[float], int]) -> None:
    law, k = case
    tensor = torch.tensor(law, dtype=torch.float64)
    pi = inclusion_probabilities(tensor, k)
    assert pi.sum().item() == pytest.approx(k, rel=1e-9)
    assert ((pi >= 0) & (pi <= 1)).all()
    assert (pi[tensor.argsort()].diff() >= 0).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(laws())
def test_uncapped_rows_stay_in_proportion(case: tuple[list[float], int]) -> None:
    law, k = case
    tensor = torch.tensor(law, dtype=torch.float64).clamp_min(TINY)
    pi = inclusion_probabilities(tensor, k)
    free = pi < 1 - 1e-9
    if free.any():
        ratio = (pi[free].log() - tensor[free].log()).exp()
        assert ratio.tolist() == pytest.approx([ratio[0].item()] * len(ratio), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3000])
def test_extremes(n: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(n)
    for law in (torch.zeros(n), torch.ones(n), torch.rand(n, generator=generator), torch.eye(n)[0]):
        for k in {1, (n + 1) // 2, n}:
            pi = inclusion_probabilities(law.to(dtype), k)
            assert pi.dtype == dtype
            assert pi.sum().item() == pytest.approx(k, rel=1e-4 if dtype is torch.float32 else 1e-10)
            assert pi.max() <= 1
    assert (inclusion_probabilities(torch.rand(n, dtype=dtype, generator=generator), n) > 1 - 1e-6).all()


# ---------------------------------------------------------------------- the draw

LAWS = {
    "equal": [1.0] * 12,
    "linear": [float(i) for i in range(1, 13)],
    "steep": [2.0**-i for i in range(12)],
    "two kinds": [1.0] * 6 + [0.05] * 6,
    "zeros": [0.0] * 3 + [1.0] * 9,
    "one giant": [1e6] + [1.0] * 11,
    "beta of 1/3": [((i + 0.5) / 12) ** 2 for i in range(12)],
}
DRAWS = 2000


def miss(law: list[float], k: int, sample: str = "systematic") -> float:
    """The largest distance of a measured inclusion from the law, in standard errors."""
    generator = torch.Generator().manual_seed(7)
    n = len(law)
    pi = inclusion_probabilities(torch.tensor(law, dtype=torch.float64), k)
    counts = torch.zeros(n, dtype=torch.float64)
    with shapes.unchecked():
        for draws in torch.rand(DRAWS, n + 1, dtype=torch.float64, generator=generator):
            if sample == "systematic":
                rows = systematic_sample(pi, k, draws[1:].argsort(), draws[:1])
            else:  # one row after the other, with the law as weights (Efraimidis and Spirakis)
                rows = (draws[1:].log() / (pi / k)).topk(k).indices
            assert rows.dtype == torch.int64
            assert len(set(rows.tolist())) == k
            counts[rows] += 1
    error = (counts / DRAWS - pi).abs()
    sigma = (pi * (1 - pi) / DRAWS).sqrt()
    certain = sigma < 1e-6
    if (error[certain] > 1e-3).any():
        return math.inf
    return (error / sigma)[~certain].max().item() if not certain.all() else 0.0


@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_measured_inclusion_equals_the_law(law: list[float], k: int) -> None:
    assert miss(law, k) < 5


def test_successive_sampling_would_be_noticed() -> None:
    """The known fault of two rivals."""
    for name in ("linear", "beta of 1/3"):
        assert miss(LAWS[name], 6, "successive") > 20


@settings(max_examples=100, deadline=None, derandomize=True)
@given(laws(), st.integers(0, 2**31), st.sampled_from([0.0, 0.5, math.nextafter(1.0, 0.0), None]))
def test_the_size_is_exact_whatever_the_law_and_the_draw(
    case: tuple[list[float], int], seed: int, start: float | None
) -> None:
    law, k = case
    draws = torch.rand(len(law) + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if start is not None:
        draws[0] = start
    pi = inclusion_probabilities(torch.tensor(law, dtype=torch.float64), k)
    rows = systematic_sample(pi, k, draws[1:].argsort(), draws[:1])
    assert len(rows) == len(set(rows.tolist())) == k
    assert rows.tolist() == sorted(rows.tolist())
    assert set((pi >= 1).nonzero().squeeze(1).tolist()) <= set(rows.tolist())


# ---------------------------------------------------------------------- a floor


def bisected(law: Tensor, k: int, floor: float) -> Tensor:
    """The reference: c by bisection."""
    low, high = 0.0, 1e300
    for _ in range(3000):
        c = (low * high) ** 0.5 if low else high * 1e-3
        if (floor + (law * c).clamp_max(1 - floor)).sum() < k:
            low = c
        else:
            high = c
        if low and high / low < 1 + 1e-15:
            break
        if not low and high < 1e-200:
            break
    return floor + (law * high).clamp_max(1 - floor)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_a_floor_is_what_the_reference_makes_of_it(data: st.DataObject) -> None:
    probability = st.one_of(st.floats(0.001, 1), st.sampled_from([1e-30, 1e-9, 0.5, 1.0]))
    law = torch.tensor(data.draw(st.lists(probability, min_size=1, max_size=9)), dtype=torch.float64)
    k = data.draw(st.integers(1, len(law)))
    floor = data.draw(st.floats(0.001, 1)) * k / len(law)
    pi = inclusion_probabilities(law, k, floor)
    assert pi.sum().item() == pytest.approx(k, rel=1e-12)
    assert (pi >= floor).all()
    assert (pi <= 1).all()
    assert torch.allclose(pi, bisected(law, k, floor), rtol=1e-9, atol=0)


@pytest.mark.parametrize("floor", [0.5, 0.9, 1.0])
def test_a_floor_of_the_whole_share_is_uniform(floor: float) -> None:
    assert inclusion_probabilities(torch.tensor([0.0, 0.1, 1.0, 9.0]), 2, floor).tolist() == [0.5] * 4


def test_what_is_above_the_floor_stays_in_proportion() -> None:
    law = torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=torch.float64)
    above = inclusion_probabilities(law, 2, 0.2) - 0.2
    assert (above / law).tolist() == pytest.approx([0.8] * 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_floor_under_zeros(dtype: torch.dtype) -> None:
    pi = inclusion_probabilities(torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=dtype), 3, 0.2)
    assert pi.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1])
