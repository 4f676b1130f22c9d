"""The LightningModule of every experiment: a plain classifier."""

from collections.abc import Callable, Iterable

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from experiments.data.rows import Batch


class Classifier(LightningModule):
    """Cross-entropy on the labels. It knows nothing of selection; that is the point.

    Args:
        net: images `[N, C, H, W]` to logits `[N, classes]`.
        optimizer: makes the optimizer from the parameters.
        channels_last: whether images and weights lie in memory channel by channel at each pixel, which some
            processors prefer.
    """

    def __init__(
        self, net: nn.Module, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], channels_last: bool
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self.layout)  # type: ignore[call-overload] - torch's stub wants more arguments
        self.make_optimizer = optimizer

    def forward(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` float to logits `[N, classes]`."""
        return self.net(images.contiguous(memory_format=self.layout))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of the batch."""
        loss = F.cross_entropy(self(batch["image"]), batch["label"])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `val/loss` and `val/accuracy`."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `test/loss` and `test/accuracy`."""
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> Optimizer:
        """The optimizer alone: `litselect.callbacks.BudgetSchedule` follows the budget, not the steps."""
        return self.make_optimizer(self.parameters())

    def _evaluate(self, batch: Batch, part: str) -> None:
        logits, labels = self(batch["image"]), batch["label"]
        values = {
            f"{part}/loss": F.cross_entropy(logits, labels),
            f"{part}/accuracy": (logits.argmax(1) == labels).float().mean(),
        }
        self.log_dict(values, batch_size=len(labels))
