"""Batches of which no row is trained: what they do to accumulated gradients, and what is shown of them."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from litselect.callbacks import ExampleSelection
from litselect.selectors import LossPercentile, Selection, Selector
from tests.callbacks.kit import Classifier, Notes, loader

pytestmark = pytest.mark.filterwarnings("ignore:The '\\w+_dataloader' does not have many workers")


class Sums(Classifier):
    """Adds up the gradients that go backward, and those that steps apply."""

    def __init__(self) -> None:
        super().__init__(lr=0.0)
        self.sums = Notes([0.0, 0.0])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        return F.cross_entropy(self.net(x), y)

    def on_before_backward(self, loss: Any) -> None:
        self.sums[0] += torch.autograd.grad(loss, self.net.bias, retain_graph=True)[0][0].item()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.sums[1] += self.net.bias.grad[0].item()


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_every_gradient_is_applied_once(kit: Any, accumulate: int) -> None:
    net, callback = kit.make(Sums), ExampleSelection(LossPercentile(0.3, fixed_size=False, seed=0))
    kit.fit(net, callback, data=loader(64, 2), max_epochs=3, accumulate_grad_batches=accumulate)
    backward, applied = net.sums
    assert (len(net.steps) < 96) == (accumulate == 1), "a third of the batches has no row to train"
    assert applied == pytest.approx(backward, rel=1e-4)


class Nothing(Selector):
    """Chooses no row of the first batch and all of the others."""

    probabilistic = True
    calls = 0

    def select(self, k: int, *, candidates: int) -> Selection:
        self.calls += 1
        return Selection(torch.arange(0 if self.calls == 1 else candidates))


def test_a_batch_that_is_left_out_is_shown_as_such(kit: Any) -> None:
    shares: list[float] = []

    class Looks:
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            shares.append(float(trainer.callback_metrics["select/kept"]))

    kit.fit(kit.make(Classifier), ExampleSelection(Nothing()), kit.callback(Looks), data=loader(16, 4))
    assert shares == [0, 1, 1, 1]


class OneFinite(Classifier):
    """With batch statistics; all but one loss of each batch are NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(5)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        return F.cross_entropy(self.net(self.norm(x)) + torch.where(ids % 4 > 0, torch.nan, 0.0)[:, None], y)


def test_a_batch_that_can_not_be_left_out_is_an_error(kit: Any) -> None:
    callback = ExampleSelection(LossPercentile(0.5), nonfinite="drop")
    kit.fit(kit.make(OneFinite), callback, data=loader(16, 4))
    with pytest.raises(RuntimeError, match=r"none can be left out while gradients are accumulated"):
        kit.fit(kit.make(OneFinite), callback, data=loader(16, 4), accumulate_grad_batches=2)
