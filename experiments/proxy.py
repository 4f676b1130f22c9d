"""Scores of a small network that learns beside the training, instead of the network's own.

Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", https://arxiv.org/abs/2404.00498, whose code for 96%
selects the hardest rows of each batch in this manner (airbench96_faster).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.callbacks import Cost
from experiments.data import ImageData, Images
from experiments.data.rows import Batch
from litselect.callbacks import ExampleSelection
from litselect.scoring import ScoringPass
from litselect.selectors import TopLoss


class ProxyClassifier(nn.Module):
    """A network with a loss.

    Args:
        net: images `[N, C, H, W]` to logits `[N, classes]`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` float to logits `[N, classes]`."""
        return self.net(images)

    def training_step(self, batch: Batch) -> Tensor:
        """The mean loss of the batch."""
        return F.cross_entropy(self(batch["image"]), batch["label"])


@dataclass(frozen=True, kw_only=True)
class ProxyScored:
    """Builds the selection callback once the shape of the images is known.

    Attributes:
        keep: fraction of a batch that is trained: that of the highest losses.
        model: makes the proxy.
        lr: of its optimizer, SGD with momentum 0.9.
    """

    keep: float
    model: Callable[..., nn.Module]
    lr: float

    def ready(
        self, config: DictConfig, data: ImageData, parts: tuple[Images, Images], folder: Path
    ) -> tuple[ExampleSelection, Cost]:
        """The callback, which costs nothing before training."""
        _, channels, _, size = data.train.pixels.shape
        with torch.random.fork_rng():  # so that the network begins as it does in other arms
            proxy = ProxyClassifier(self.model(channels=channels, size=size, classes=data.train.classes))
        optimizer = torch.optim.SGD(proxy.parameters(), lr=self.lr, momentum=0.9)
        scoring = ScoringPass(proxy=proxy, proxy_optimizer=optimizer)
        return ExampleSelection(TopLoss(keep=self.keep), scoring=scoring), Cost()
