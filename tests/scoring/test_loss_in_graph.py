"""Losses of single examples, read off the graph of their mean."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring.loss_in_graph import cross_entropy_in
from litselect.scoring.loss_observer import LossObserver

N, CLASSES = 6, 4
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])
HOLES = torch.tensor([0, -100, 1, 3, -100, 0])
WEIGHT = torch.tensor([1.0, 0.2, 3.0, 0.7])


def logits(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(*(shape or (N, CLASSES)), requires_grad=True)


def under_autocast() -> Tensor:
    inputs, net = logits().detach(), nn.Linear(CLASSES, CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(net(inputs), LABELS)


pixels = torch.randint(CLASSES, (N, 3, 3), generator=torch.Generator().manual_seed(0))
pixels[:2, 0] = 255
PLAIN: dict[str, Callable[[], Tensor]] = {
    "mean": lambda: F.cross_entropy(logits(), LABELS),
    "module": lambda: nn.CrossEntropyLoss()(logits(), LABELS),
    "sum": lambda: F.cross_entropy(logits(), LABELS, reduction="sum"),
    "class weights": lambda: F.cross_entropy(logits(), LABELS, weight=WEIGHT),
    "ignored rows": lambda: F.cross_entropy(logits(), HOLES),
    "nll": lambda: F.nll_loss(logits().log_softmax(1), LABELS),
    "nll of any numbers": lambda: F.nll_loss(logits(), LABELS),
    "pixels": lambda: F.cross_entropy(logits(N, CLASSES, 3, 3), pixels, ignore_index=255),
    "tokens": lambda: F.cross_entropy(logits(3 * N, CLASSES), pixels[:, 0].reshape(-1), ignore_index=255),
    "token dimension": lambda: F.cross_entropy(logits(N, CLASSES, 9), pixels.reshape(N, 9), ignore_index=255),
    "autocast": under_autocast,
    "bfloat16": lambda: F.cross_entropy(logits().to(torch.bfloat16), LABELS),
    "one row": lambda: F.cross_entropy(logits(1, CLASSES), LABELS[:1]),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "a penalty": lambda: F.cross_entropy(logits(), LABELS) + 0.1,
    "scaled": lambda: 2 * F.cross_entropy(logits(), LABELS),
    "smoothed": lambda: F.cross_entropy(logits(), LABELS, label_smoothing=0.1),
    "soft labels": lambda: F.cross_entropy(logits(), torch.full((N, CLASSES), 1 / CLASSES)),
    "own mean": lambda: F.cross_entropy(logits(), LABELS, reduction="none").mean(),
    "squares": lambda: F.mse_loss(logits(), torch.zeros(N, CLASSES)),
    "not of the rows": lambda: F.cross_entropy(logits(N + 1, CLASSES), torch.zeros(N + 1, dtype=torch.int64)),
    "no graph": lambda: F.cross_entropy(logits(), LABELS).detach(),
    "a leaf": lambda: torch.zeros((), requires_grad=True),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("loss", PLAIN.values(), ids=PLAIN)
def test_they_are_what_a_listener_hears(loss: Callable[[], Tensor]) -> None:
    n = 1 if loss is PLAIN["one row"] else N
    observer = LossObserver(n)
    observer.watch(loss)
    heard, read = observer.scores, cross_entropy_in(loss(), n)
    assert observer.plain
    assert heard is not None
    assert read is not None
    assert read.losses.dtype == torch.float32
    assert torch.equal(read.losses, heard.losses)
    assert not read.losses.requires_grad
    assert (read.logits is None) == (heard.logits is None and loss is not PLAIN["nll"])
    if loss is PLAIN["nll"]:
        assert torch.allclose(read.logits.exp().sum(1), torch.ones(N))  # type: ignore[union-attr] - log-probabilities
    if heard.logits is not None and read.logits is not None:
        assert torch.equal(read.targets, heard.targets)  # type: ignore[arg-type] - beside logits there are targets
        assert torch.allclose(read.logits.float().softmax(1), heard.logits.float().softmax(1), atol=1e-2)


@pytest.mark.parametrize("loss", OTHERS.values(), ids=OTHERS)
def test_of_any_other_loss_nothing_is_read(loss: Callable[[], Any]) -> None:
    assert cross_entropy_in(loss(), N) is None


@pytest.mark.parametrize("name", ["a penalty", "scaled", "smoothed", "soft labels", "own mean", "squares"])
def test_a_listener_does_not_take_it_for_plain(name: str) -> None:
    observer = LossObserver(N)
    observer.watch(OTHERS[name])
    assert observer.scores is not None
    assert not observer.plain


def test_the_loss_goes_backward_as_ever() -> None:
    inputs = logits()
    loss = F.cross_entropy(inputs, LABELS)
    cross_entropy_in(loss, N)
    loss.backward()
    expected = torch.autograd.grad(F.cross_entropy(same := logits(), LABELS), same)[0]
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, expected)
