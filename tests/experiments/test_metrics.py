"""What is measured on the whole test set, against values worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments import metrics
from experiments.classifier import Classifier
from experiments.models import Mlp


def logits_of(*probabilities: tuple[float, ...]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


LOGITS = logits_of((0.9, 0.1), (0.9, 0.1), (0.3, 0.7), (0.45, 0.55), (0.2, 0.8))
LABELS = torch.tensor([0, 1, 1, 1, 0])


def test_class_accuracy() -> None:
    assert metrics.class_accuracy(LOGITS, LABELS) == [1 / 2, 2 / 3]
    three = torch.cat([LOGITS, torch.full((5, 1), -math.inf, dtype=torch.float64)], dim=1)
    assert metrics.class_accuracy(three, LABELS) == [1 / 2, 2 / 3, None]
    assert metrics.describe(three, LABELS)["worst_class_accuracy"] == 1 / 2


def test_calibration_error() -> None:
    # of fifteen bins, .9 and .9 share one with one hit; .7, .55 and .8 are alone: hit, hit, miss
    expected = (abs(1 - 1.8) + 0.3 + 0.45 + 0.8) / 5
    assert metrics.calibration_error(LOGITS, LABELS) == pytest.approx(expected)
    # in one bin, excess and lack cancel
    assert metrics.calibration_error(LOGITS, LABELS, bins=1) == pytest.approx(abs(3 - 3.85) / 5)


def test_bins_are_closed_above_and_certainty_has_one() -> None:
    sure = torch.tensor([[50.0, -50.0], [-50.0, 50.0]])
    assert metrics.calibration_error(sure, torch.tensor([0, 1])) == pytest.approx(0, abs=1e-12)
    assert metrics.calibration_error(sure, torch.tensor([1, 0])) == pytest.approx(1)
    # .75 ends the third of four bins, which it shares with .7, where they cancel in part: a hit and a miss
    edge = logits_of((0.75, 0.25), (0.7, 0.3))
    assert metrics.calibration_error(edge, torch.tensor([0, 1]), bins=4) == pytest.approx(abs(1 - 1.45) / 2)


def test_batches_of_unequal_size_count_as_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Classifier(Mlp(channels=1, size=2, classes=2, width=2, depth=1, dropout=0.0), torch.optim.SGD, False)
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(type(module), "forward", lambda self, images: LOGITS[images])
    for _ in range(2):  # a second test does not contain the first
        for rows in (torch.tensor([0, 1, 2, 3]), torch.tensor([4])):
            batch: Any = {"image": rows, "label": LABELS[rows]}
            module.test_step(batch, 0)
        module.on_test_epoch_end()
        assert module.tested == metrics.describe(LOGITS, LABELS)
