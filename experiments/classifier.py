"""The LightningModule of every experiment: a plain classifier."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from experiments import metrics
from experiments.data.rows import Batch


class Classifier(LightningModule):
    """Cross-entropy on the labels. It knows nothing of selection; that is the point.

    Args:
        net: images `[N, C, H, W]` to logits `[N, classes]`.
        optimizer: makes the optimizer from the parameters.
        channels_last: whether images and weights lie in memory channel by channel at each pixel, which some
            processors prefer.

    Attributes:
        heard: called with the logits and labels of every training step, those of scoring passes among them.
        tested: what the last test found beside its loss and accuracy, see `experiments.metrics.describe`.
    """

    def __init__(
        self, net: nn.Module, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], channels_last: bool
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self.layout)
        self.make_optimizer = optimizer
        self.heard: Callable[[Tensor, Tensor], None] | None = None
        self.tested: dict[str, Any] = {}
        self._answers: list[tuple[Tensor, Tensor]] = []  # logits and labels of the test set, while it lasts

    def forward(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` float to logits `[N, classes]`."""
        return self.net(images.contiguous(memory_format=self.layout))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of the batch."""
        logits = self(batch["image"])
        loss = F.cross_entropy(logits, batch["label"])
        self.log("train/loss", loss)
        if self.heard is not None:
            self.heard(logits, batch["label"])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `val/loss` and `val/accuracy`."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `test/loss` and `test/accuracy`, and remembers its answers until the end."""
        self._answers.append((self._evaluate(batch, "test"), batch["label"]))

    def on_test_epoch_end(self) -> None:
        """Measures what no mean over batches gives."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._answers, strict=True))
        self.tested, self._answers = metrics.describe(logits, labels), []

    def configure_optimizers(self) -> Optimizer:
        """The optimizer alone: `litselect.callbacks.BudgetSchedule` follows the budget, not the steps."""
        return self.make_optimizer(self.parameters())

    def _evaluate(self, batch: Batch, part: str) -> Tensor:
        logits, labels = self(batch["image"]), batch["label"]
        values = {
            f"{part}/loss": F.cross_entropy(logits, labels),
            f"{part}/accuracy": (logits.argmax(1) == labels).float().mean(),
        }
        self.log_dict(values, batch_size=len(labels))
        return logits
