"""The losses of a model on examples that it is not trained on."""

import math

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from experiments.data import ImageData, Images
from experiments.data.image_data import EVALUATION_BATCH


class LowestLoss(Callback):
    """Scores the same images after every epoch or so, and keeps the losses of the epoch whose mean is lowest.

    As Mindermann et al., 2022 choose their model, https://arxiv.org/abs/2206.07137: by loss and not by accuracy, since
    the losses of a model that has grown overconfident would pass for irreducible.

    Args:
        data: says how images are normalised.
        unseen: what is scored.
        every: epochs between two scorings; the last epoch is always followed by one.
        by_accuracy: keep the losses of the epoch that agrees with most labels instead: the best ranking, where only
            the order of the losses counts.

    Attributes:
        losses: `[M]`, on the CPU; NaN before the first epoch is over.
        scored: rows that went through the network so far.
    """

    def __init__(self, data: ImageData, unseen: Images, every: int = 1, by_accuracy: bool = False) -> None:
        self.data = data
        self.unseen = unseen
        self.every = every
        self.by_accuracy = by_accuracy
        self._least = math.inf
        self.losses = torch.full((len(unseen),), math.nan)
        self.scored = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores, without augmentation."""
        done = trainer.current_epoch + 1
        if done % self.every and done != trainer.max_epochs:
            return
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            found = [self._of(rows, pl_module) for rows in self._batches()]
        losses, wrong = torch.cat(found, dim=1)
        pl_module.train()
        self.scored += len(losses)
        value = float((wrong if self.by_accuracy else losses).mean())
        if value < self._least or math.isinf(self._least):
            self.losses, self._least = losses, value

    def _batches(self) -> tuple[Tensor, ...]:
        return torch.arange(len(self.unseen)).split(EVALUATION_BATCH)

    def _of(self, rows: Tensor, module: LightningModule) -> Tensor:
        """Losses, and whether the label is not the one that is predicted: `[2, M]`."""
        images = self.unseen.rows(rows)
        logits = module(self.data.normalised(images.pixels.to(module.device))).float()
        labels = images.labels.to(module.device)
        losses = F.cross_entropy(logits, labels, reduction="none")
        return torch.stack([losses, (logits.argmax(1) != labels).to(losses.dtype)]).cpu()
