"""segmentation-models-pytorch: a U-Net with torch's losses, and with the library's own."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from litselect.callbacks import SelectiveBackprop
from litselect.scoring import CaptureError
from tests.clients.training import fit, scores_are_losses_of_single_rows, trains_exactly_k

CLASSES = 3


class Segmentation(LightningModule):
    """The one of the library's own examples."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.net = smp.Unet("resnet18", encoder_weights=None, classes=CLASSES)
        self.loss = loss

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, masks = batch
        loss = self.loss(self.net(images), masks)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class CrossEntropyAndDice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dice = smp.losses.DiceLoss("multiclass")

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, masks) + self.dice(logits, masks)


def images(n: int = 18) -> DataLoader:
    return DataLoader(TensorDataset(torch.randn(n, 3, 32, 32), torch.randint(CLASSES, (n, 32, 32))), batch_size=9)


BY_CAPTURE = {
    "cross entropy": nn.CrossEntropyLoss,
    "focal": lambda: smp.losses.FocalLoss("multiclass"),
}
BY_HAND = {
    "dice": lambda: smp.losses.DiceLoss("multiclass"),
    "jaccard": lambda: smp.losses.JaccardLoss("multiclass"),
    "soft cross entropy": lambda: smp.losses.SoftCrossEntropyLoss(smooth_factor=0.1),
    "cross entropy and dice": CrossEntropyAndDice,
}


@pytest.mark.parametrize("name", BY_CAPTURE)
def test_by_capture(name: str) -> None:
    module = Segmentation(BY_CAPTURE[name]())
    trains_exactly_k(module, images(), module.net)


@pytest.mark.parametrize("name", BY_CAPTURE)
def test_captured_scores(name: str) -> None:
    scores_are_losses_of_single_rows(Segmentation(BY_CAPTURE[name]()), images(9))


@pytest.mark.parametrize("name", BY_HAND)
def test_a_loss_of_the_librarys_own_is_refused(name: str) -> None:
    with pytest.raises(CaptureError, match=r"example_losses.*loss_fn"):
        fit(Segmentation(BY_HAND[name]()), images(), SelectiveBackprop(keep=1 / 3, warmup=0))


def losses(module: Any, batch: Any) -> torch.Tensor:
    logits = module.net(batch[0])
    return torch.stack([module.loss(logits[i : i + 1], batch[1][i : i + 1]) for i in range(len(logits))])


@pytest.mark.parametrize("name", BY_HAND)
def test_with_a_loss_fn(name: str) -> None:
    module = Segmentation(BY_HAND[name]())
    trains_exactly_k(module, images(), module.net, loss_fn=losses)
