"""Greedy orthogonalised choice, against least squares written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litselect.selectors import DiverseSubset


def gradients(logits: Tensor, targets: Tensor) -> np.ndarray:
    return (logits.double().softmax(1) - F.one_hot(targets, logits.shape[1])).numpy()


def greedy(features: np.ndarray, k: int) -> list[int]:
    """The reference: the residual by least squares on the round's rows, from scratch for every row."""
    chosen: list[int] = []
    round_rows: list[int] = []
    target = features.sum(0)
    longest = np.linalg.norm(features, axis=1).max()
    while len(chosen) < k:
        left = [i for i in range(len(features)) if i not in chosen]
        residual = target
        if round_rows:
            basis = features[round_rows].T
            residual = target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]
        gains = [abs(float(features[i] @ residual)) for i in left]
        if round_rows and max(gains) <= 1e-5 * longest * np.linalg.norm(target):
            target, round_rows = features[left].sum(0), []
            continue
        best = left[int(np.argmax(gains))]
        chosen.append(best)
        round_rows.append(best)
    return sorted(chosen)


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
@pytest.mark.parametrize("seed", range(4))
def test_it_equals_the_reference(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(24, classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (24,), generator=generator)
    for k in (1, 2, 5, 12, 23, 24):
        expected = greedy(gradients(logits, targets), k)
        assert DiverseSubset()(logits=logits, targets=targets, k=k).indices.tolist() == expected


def test_a_repeated_example_is_chosen_once() -> None:
    """Nine copies of the largest gradient, and two small ones in other directions."""
    logits = torch.zeros(11, 4)
    logits[:9, 1] = 6.0
    logits[9, 2], logits[10, 3] = 1.0, 0.5
    chosen = DiverseSubset()(logits=logits, targets=torch.zeros(11, dtype=torch.int64), k=3).indices.tolist()
    assert chosen == [0, 9, 10]


def test_the_chosen_rows_explain_the_batch_better_than_the_largest_gradients() -> None:
    better = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(64, 20, generator=generator)
        targets = torch.randint(20, (64,), generator=generator)
        features = gradients(logits, targets)
        left = []
        for rows in (
            DiverseSubset()(logits=logits, targets=targets, k=8).indices.numpy(),
            np.argsort(-np.linalg.norm(features, axis=1))[:8],
        ):
            total = features.sum(0)
            basis = features[rows].T
            left.append(np.linalg.norm(total - basis @ np.linalg.lstsq(basis, total, rcond=None)[0]))
        better.append(left[0] < left[1])
    assert sum(better) >= 18


def test_learned_examples_come_last_and_all_learned_is_no_error() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]] * 3 + [[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    targets = torch.zeros(5, dtype=torch.int64)
    select = DiverseSubset()
    assert select(logits=logits, targets=targets, k=2).indices.tolist() == [3, 4]
    assert select(logits=logits, targets=targets, k=3).indices.tolist() == [0, 3, 4]
    assert select(logits=logits[:3], targets=targets[:3], k=2).indices.tolist() == [0, 1]
