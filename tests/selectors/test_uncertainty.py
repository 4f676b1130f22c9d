"""Margin and entropy, against formulas written out, and what happens to unusual logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from litselect.selectors import TopLoss, Uncertainty


def probabilities(logits: list[float]) -> list[float]:
    top = max(logits)
    exponentials = [math.exp(z - top) for z in logits]
    return [e / sum(exponentials) for e in exponentials]


def margin(logits: list[float]) -> float:
    second, first = sorted(probabilities(logits))[-2:]
    return second - first


def entropy(logits: list[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities(logits) if p > 0)


def expected(score: list[float], k: int) -> list[int]:
    return sorted(sorted(range(len(score)), key=lambda i: (-score[i], i))[:k])


logits = st.integers(2, 5).flatmap(
    lambda classes: st.lists(
        st.lists(st.integers(-60, 60).map(lambda i: i / 7), min_size=classes, max_size=classes, unique=True),
        min_size=1,
        max_size=9,
    )
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(logits, st.floats(0.05, 1), st.sampled_from(["margin", "entropy"]))
def test_it_equals_the_formula(rows: list[list[float]], keep: float, measure: str) -> None:
    selector = Uncertainty(keep, measure=measure)  # pyright: ignore
    reference = {"margin": margin, "entropy": entropy}[measure]
    score = [reference(row) for row in rows]
    chosen = selector(logits=torch.tensor(rows, dtype=torch.float64)).indices.tolist()
    left_out = [score[i] for i in range(len(rows)) if i not in chosen]
    assert len(chosen) == selector.count(len(rows))
    assert min(score[i] for i in chosen) >= max(left_out, default=-math.inf) - 1e-12
    if len({round(s, 9) for s in score}) == len(score):
        assert chosen == expected(score, len(chosen))


def test_the_measures_differ() -> None:
    """Two classes at 45% each and a third, against five at a fifth with one ahead."""
    p = torch.tensor([[0.45, 0.45, 0.10, 1e-9, 1e-9], [0.28, 0.18, 0.18, 0.18, 0.18]])
    assert Uncertainty(0.5)(logits=p.log()).indices.tolist() == [0]
    assert Uncertainty(0.5, measure="entropy")(logits=p.log()).indices.tolist() == [1]


@pytest.mark.parametrize("measure", ["margin", "entropy"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_single_logit_is_one_of_two_classes(measure: str, shape: tuple[int, ...]) -> None:
    logits = torch.tensor([-3.0, 0.1, 5.0, 1.0]).reshape(shape)
    assert Uncertainty(0.5, measure=measure)(logits=logits).indices.tolist() == [1, 3]  # pyright: ignore


@pytest.mark.parametrize("measure", ["margin", "entropy"])
def test_positions_are_averaged(measure: str) -> None:
    sure, unsure = torch.tensor([9.0, 0.0, 0.0]), torch.tensor([0.1, 0.0, 0.0])
    logits = torch.stack([torch.stack(row, 1) for row in ([sure, sure], [sure, unsure], [unsure, unsure])])
    assert logits.shape == (3, 3, 2)
    selector = Uncertainty(1.0, measure=measure)  # pyright: ignore
    assert [selector(logits=logits, k=k).indices.tolist() for k in (1, 2)] == [[2], [1, 2]]


@pytest.mark.parametrize("measure", ["margin", "entropy"])
def test_masked_classes_do_not_count(measure: str) -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [0.0, -torch.inf, 4.0]])
    assert Uncertainty(0.5, measure=measure)(logits=logits).indices.tolist() == [0]  # pyright: ignore
    with pytest.raises(ValueError, match=rf"can't rank {measure} .* 1 of 2 rows"):
        Uncertainty(measure=measure)(logits=torch.tensor([[-torch.inf, -torch.inf], [0.0, 1.0]]))  # pyright: ignore


def test_a_wrong_measure_is_refused() -> None:
    with pytest.raises(ValueError, match=r'"margin" or "entropy", but got \'variance\''):
        Uncertainty(measure="variance")  # pyright: ignore


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=12), st.floats(0.05, 1))
def test_small_and_large_losses_equal_a_plain_sort(losses: list[float], keep: float) -> None:
    n = len(losses)
    for lowest in (False, True):
        chosen = TopLoss(keep, lowest=lowest)(losses=torch.tensor(losses)).indices.tolist()
        order = sorted(range(n), key=lambda i: (losses[i] if lowest else -losses[i], i))
        assert chosen == sorted(order[: max(1, round(keep * n))])
