"""Small networks on real data, in training for some steps already."""

import argparse
import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.models.mlp import Mlp
from experiments.rating_text.corpus import VOCABULARY, sequences
from experiments.rating_text.networks import LanguageModel
from litselect.scoring.meta_gradients import (
    SGD,
    Adam,
    Estimator,
    InnerOptimizer,
    InnerState,
    LookAhead,
    LossObjective,
    Window,
)
from litselect.scoring.meta_gradients.window import Rate

OPTIMIZERS: dict[str, InnerOptimizer] = {
    "SGD": SGD(lr=0.1),
    "momentum": SGD(lr=0.05, momentum=0.9),
    "Adam": Adam(lr=1e-3),
    "AdamW": Adam(lr=1e-3, weight_decay=0.1, decoupled=True),
}
EARLIER = 4  # steps before the window


class Convolutional(nn.Module):
    """Two convolutions of 3 x 3 pixels, the second of stride 2, with or without normalisation; mean; linear."""

    def __init__(
        self, norm: Callable[[int], nn.Module], unit: Callable[[], nn.Module] = nn.ReLU, width: int = 16
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), norm(width), unit(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2), norm(2 * width), unit(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """``[N, 1, H, W]`` to logits ``[N, 10]``."""
        return self.layers(images)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: Mlp(1, 8, 10, width=64, depth=2, dropout=0.0),
    "CNN": lambda: Convolutional(lambda _: nn.Identity()),
    "CNN, BatchNorm": lambda: Convolutional(nn.BatchNorm2d),
    "CNN, GroupNorm": lambda: Convolutional(lambda width: nn.GroupNorm(4, width)),
    "CNN, GroupNorm, GELU": lambda: Convolutional(lambda width: nn.GroupNorm(4, width), nn.GELU),
    "transformer": lambda: LanguageModel(length=32, width=32, depth=2, heads=4),
}


def losses(module: nn.Module, batch: Any) -> Tensor:
    """Of images and labels, or of text, ``[N]``."""
    return F.cross_entropy(module(batch[0]), batch[1], reduction="none") if len(batch) == 2 else module(batch[0])


@cache
def _digits() -> tuple[Tensor, ...]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16).reshape(-1, 1, 8, 8), torch.tensor(labels)


@cache
def _text() -> tuple[Tensor, ...]:
    return (sequences([inspect.getsource(argparse)], length=32),)


@dataclass(frozen=True)
class Problem:
    """An inner model with the data of a window.

    Attributes:
        objective: the losses.
        optimizer: of the inner model.
        start: the model after `EARLIER` steps, so that moments are under way.
        batches: of the window; the last is the held-out one.
        rater: rates them.
    """

    objective: LossObjective
    optimizer: InnerOptimizer
    start: InnerState
    batches: list[tuple[Tensor, ...]]
    rater: nn.Module

    @classmethod
    def of(cls, network: str, optimizer: str, steps: int, rows: int, seed: int) -> "Problem":
        """A window of `steps` steps with batches of `rows`, in float64."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            module, data = NETWORKS[network]().double(), _text() if network == "transformer" else _digits()
            order = torch.randperm(len(data[0]))[: rows * (EARLIER + steps + 1)].split(rows)
            seen, units = (nn.Embedding(VOCABULARY, 8), 256) if network == "transformer" else (nn.Identity(), 64)
            rater = nn.Sequential(seen, nn.Flatten(), nn.Linear(units, 16), nn.Tanh(), nn.Linear(16, 1)).double()
            batches = [tuple(column[part] for column in data) for part in order]
        objective, how = LossObjective(module, losses), OPTIMIZERS[optimizer]
        parameters, buffers = objective.begin(module)
        start = InnerState(parameters, buffers, how.begin(parameters))
        for batch in batches[:EARLIER]:
            window = Window(start, [batch], batch, lambda batch, _: torch.zeros(len(batch[0]), dtype=torch.float64))
            start = LookAhead(objective, how, "jvp")(window).end
        return cls(objective, how, start, batches[EARLIER:], rater)

    def gradient(self, estimator: Estimator, dtype: torch.dtype) -> Tensor:
        """The gradient of the held-out loss with respect to the rater, computed in `dtype`, as one vector."""
        rater = copy.deepcopy(self.rater).to(dtype)
        window = self.window(lambda batch, _: rater(batch[0]).squeeze(1), dtype)
        LookAhead(self.objective, self.optimizer, estimator)(window).backward()
        return torch.cat([p.grad.flatten() for p in rater.parameters() if p.grad is not None]).double()

    def window(self, rate: Rate, dtype: torch.dtype) -> Window:
        """In another precision."""

        def to(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        start = InnerState(
            [to(p) for p in self.start.parameters],
            {name: to(buffer) for name, buffer in self.start.buffers.items()},
            {name: [to(m) for m in moment] for name, moment in self.start.moments.items()},
            self.start.steps,
        )
        *inner, heldout = [tuple(to(column) for column in batch) for batch in self.batches]
        return Window(start, inner, heldout, rate)
