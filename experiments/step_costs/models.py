"""The networks whose steps are measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.models.mlp import Mlp
from experiments.models.resnet import ResNet
from experiments.rating_text.corpus import VOCABULARY
from experiments.step_costs.language_model import NextLetter
from experiments.step_costs.learner import Learner, Proxy
from experiments.step_costs.vit import VisionTransformer

CHANNELS, SIDE, CLASSES = 3, 24, 10  # of the images


@dataclass(frozen=True)
class Subject:
    """A network, and the batches that it is trained on.

    Attributes:
        name: one of `NETWORKS`.
        rows: N.
        settings: of the network.
        ready: a proxy that has been trained.
    """

    name: str
    rows: int
    settings: Mapping[str, Any]
    ready: Proxy | None = None

    @property
    def text(self) -> bool:
        """Whether rows are letters, not images."""
        return self.name == "lm"

    @property
    def resizable(self) -> bool:
        """Whether the network takes images of any size."""
        return self.name not in ("lm", "mlp")

    @property
    def batchnorm(self) -> bool:
        """Whether examples share statistics."""
        return self.name == "resnet_bn"

    @property
    def adam(self) -> bool:
        """Whether Adam trains it, as transformers, or SGD, as all others."""
        return self.name in ("vit", "lm")

    def learner(self) -> Learner:
        """A fresh network."""
        return Learner(NETWORKS[self.name](**self.settings), adam=self.adam)

    def proxy(self) -> Proxy:
        """A small network for the same batches: of letters a transformer of one block, of images a perceptron."""
        if self.ready is not None:
            return self.ready
        if self.text:
            return Proxy(NextLetter(self.settings["length"], 16, 1, 2), adam=True)
        return Proxy(Mlp(CHANNELS, SIDE, CLASSES, width=32, depth=1, dropout=0.0), adam=False)

    def noise(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` random rows with targets: what a step costs doesn't depend on the values."""
        if self.text:
            rows = torch.randint(VOCABULARY, (count, self.settings["length"] + 1))
            return split(rows)
        return torch.randn(count, CHANNELS, SIDE, SIDE), torch.randint(CLASSES, (count,))


def split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Letters, and those that follow them."""
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def _group_normalised(net: nn.Module, groups: int = 8) -> nn.Module:
    """The network with GroupNorm wherever it had BatchNorm."""
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(net, name, nn.GroupNorm(groups, child.num_features))
        else:
            _group_normalised(child, groups)
    return net


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda width, depth: Mlp(CHANNELS, SIDE, CLASSES, width, depth, dropout=0.0),
    "resnet_bn": lambda width, blocks: ResNet(CHANNELS, SIDE, CLASSES, list(blocks), width),
    "resnet_gn": lambda width, blocks: _group_normalised(ResNet(CHANNELS, SIDE, CLASSES, list(blocks), width)),
    "vit": lambda **settings: VisionTransformer(CHANNELS, SIDE, CLASSES, **settings),
    "lm": NextLetter,
}
TITLES = {
    "mlp": "MLP", "resnet_bn": "ResNet, BatchNorm", "resnet_gn": "ResNet, GroupNorm", "vit": "ViT",
    "lm": "Transformer LM",
}  # fmt: skip
