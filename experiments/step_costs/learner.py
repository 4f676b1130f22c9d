"""The LightningModule whose steps are measured."""

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

Batch = list[Tensor]
"""Inputs and targets."""


class Learner(LightningModule):
    """Cross-entropy of a network's logits: one for an image, one for each letter of a text.

    Its losses per example are captured from `training_step`, as those of most modules are.

    Args:
        net: inputs to logits, classes last.
        adam: whether Adam trains it, or SGD with momentum.
    """

    def __init__(self, net: nn.Module, *, adam: bool) -> None:
        super().__init__()
        self.net = net
        self.adam = adam

    def loss(self, batch: Batch, reduction: str = "mean") -> Tensor:
        """Over everything that is predicted."""
        inputs, targets = batch
        return F.cross_entropy(self.net(inputs).flatten(0, -2), targets.flatten(), reduction=reduction)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss."""
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """At rates that train the networks of this study on real data."""
        if self.adam:
            return torch.optim.Adam(self.parameters(), lr=1e-3)
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


class Proxy(Learner):
    """A small network that scores for a large one."""

    def example_losses(self, batch: Batch) -> Tensor:
        """The mean loss of each row, ``[N]``."""
        return self.loss(batch, "none").unflatten(0, (len(batch[0]), -1)).mean(1)
