"""Training a language model on rows that an arm chooses."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from litselect.selectors import RatedSubset


@dataclass(frozen=True)
class Arm:
    """Where the batches of a training come from.

    Attributes:
        name: of the rule.
        pool: ``[P]``, the rows that are candidates.
        ratings: ``[M]``, of all rows; None draws uniformly.
        discard: share of the candidates that are turned down.
        hard: keep the highest instead of drawing.
        preparation: operations that the ratings took.
    """

    name: str
    pool: Tensor
    ratings: Tensor | None = None
    discard: float = 0.0
    hard: bool = True
    preparation: float = 0.0

    def batches(self, size: int, seed: int) -> Iterator[Tensor]:
        """Batches of `size` rows without end: in each epoch every candidate comes once."""
        generator = torch.Generator().manual_seed(seed)
        candidates = round(size / (1 - self.discard))
        selector = RatedSubset(size / candidates, hard=self.hard, seed=seed)
        waiting = self.pool[:0]
        while True:
            while len(waiting) < candidates:
                waiting = torch.cat([waiting, self.pool[torch.randperm(len(self.pool), generator=generator)]])
            rows, waiting = waiting[:candidates], waiting[candidates:]
            yield rows if self.ratings is None else rows[selector(ratings=self.ratings[rows]).indices]


@dataclass(frozen=True)
class Curve:
    """How a training went.

    Attributes:
        steps: at which was measured.
        losses: on the validation rows, there.
        rows: ``[N]``, those that were trained, with repetitions.
    """

    steps: list[int]
    losses: list[float]
    rows: Tensor

    def at(self, step: float) -> float:
        """The loss at a step, interpolated."""
        for n, (first, second) in enumerate(zip(self.steps, self.steps[1:], strict=False)):
            if first <= step <= second:
                return self.losses[n] + (self.losses[n + 1] - self.losses[n]) * (step - first) / (second - first)
        raise ValueError(f"measured from step {self.steps[0]} to {self.steps[-1]}, asked for {step}")

    def first_below(self, loss: float) -> float:
        """The step at which the loss falls to `loss`, interpolated; infinite if it never does."""
        for n, (before, after) in enumerate(zip(self.losses, self.losses[1:], strict=False)):
            if before > loss >= after:
                return self.steps[n] + (before - loss) / (before - after) * (self.steps[n + 1] - self.steps[n])
        return float("inf")


def train(model: nn.Module, rows: Tensor, batches: Iterator[Tensor], steps: int, lr: float) -> Iterator[Tensor]:
    """Adam with a constant rate, so that a loss belongs to every step; yields the rows of each."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for _ in range(steps):
        chosen = next(batches)
        optimizer.zero_grad()
        model(rows[chosen]).mean().backward()
        optimizer.step()
        yield chosen


def follow(
    model: nn.Module,
    rows: Tensor,
    batches: Iterator[Tensor],
    validation: Tensor,
    steps: int,
    every: int,
    lr: float,
    average: float,
) -> Curve:
    """Trains, and measures the moving average of the weights `every` so many steps."""
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average))
    at, losses, trained = [0], [score(model, validation).mean().item()], list[Tensor]()
    for chosen in train(model, rows, batches, steps, lr):
        mean.update_parameters(model)
        trained.append(chosen)
        if len(trained) % every == 0 or len(trained) == steps:
            at.append(len(trained))
            losses.append(score(mean, validation).mean().item())
    return Curve(at, losses, torch.cat(trained))


@torch.no_grad()
def score(model: nn.Module, rows: Tensor) -> Tensor:
    """What a network says of each row, ``[N]``."""
    return torch.cat([model(part) for part in rows.split(256)])
