"""What the contract suite has to know about a selector."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from litselect.selectors import Selection, Selector
from tests import shapes

DRAWS = 250
"""How many independent draws a measured frequency is taken over."""

Inputs = dict[str, Tensor]


def as_losses(difficulty: Tensor) -> Inputs:
    """The input of a selector that looks at losses, or at nothing."""
    return {"losses": difficulty}


def as_logits(difficulty: Tensor) -> Inputs:
    """Two-class outputs whose cross-entropy (and its gradient) grows with the difficulty."""
    logits = torch.stack([-difficulty, torch.zeros_like(difficulty)], 1)
    return {"logits": logits, "targets": torch.zeros(len(difficulty), dtype=torch.int64)}


def as_ratings(difficulty: Tensor) -> Inputs:
    """The input of a selector that looks at a rater's scores."""
    return {"ratings": difficulty}


def as_ease(difficulty: Tensor) -> Inputs:
    """The input of a selector that prefers small losses."""
    return {"losses": -difficulty}


def as_doubt(difficulty: Tensor) -> Inputs:
    """Two-class outputs that are the less sure, the higher the difficulty."""
    sure = 10 / (1 + difficulty.float().log1p()).to(difficulty.dtype)
    return {"logits": torch.stack([sure, torch.zeros_like(sure)], 1)}


def as_percentiles(difficulty: Tensor) -> Inputs:
    """The input of a selector that is told the ranks of known losses."""
    return {"percentiles": difficulty / (1 + difficulty)}


def as_mistakes(difficulty: Tensor) -> Inputs:
    """Two-class outputs whose gradient keeps growing with the difficulty, where that of `as_logits` saturates."""
    odds = (difficulty.float() + 0.01).log().to(difficulty.dtype)
    logits = torch.stack([-odds, torch.zeros_like(odds)], 1)
    return {"logits": logits, "targets": torch.zeros(len(difficulty), dtype=torch.int64)}


def as_classes(difficulty: Tensor) -> Inputs:
    """Every kind of score, with two classes that do not depend on the place."""
    labels = (difficulty.double() * 997).long() % 2
    return {"losses": difficulty, "ratings": difficulty, "targets": labels}


def as_ledger(difficulty: Tensor) -> Inputs:
    """The input of a selector that remembers examples."""
    return {"losses": difficulty, "ids": torch.arange(len(difficulty)) + 100}


def as_learned(difficulty: Tensor) -> Inputs:
    """The input of a selector that leaves out what is predicted rightly and surely: the less, the harder."""
    return {"losses": difficulty, "confidences": (-difficulty.float() / 20).exp().to(difficulty.dtype)}


@dataclass(frozen=True)
class Case:
    """A selector with canonical settings.

    Args:
        make: ``make(keep=..., seed=...)``; what the selector does not have, it ignores.
        inputs: maps a difficulty per candidate, in [0, 20], to what the selector is called with.
        draws: chooses at random.
        prefers_hard: is likelier to choose a candidate of higher difficulty.
        weighted: answers with weights.
        estimates: what the mean of weight * loss over the chosen rows estimates without bias: the ``"mean"`` over the
            candidates, or, counted as often as there are chosen rows, their ``"sum"``.
        has_keep: takes `keep`.
        keeps_all: trains every candidate, whatever `keep` is.
        stateful: remembers more than its random stream.
        also_takes: scores that it does without, but looks at where they are given.
        warm_calls: how often it must have met the candidates before it selects among them.
    """

    name: str
    make: Callable[..., Selector]
    inputs: Callable[[Tensor], Inputs] = as_losses
    draws: bool = False
    prefers_hard: bool = True
    weighted: bool = False
    estimates: Literal["mean", "sum"] = "mean"
    has_keep: bool = True
    keeps_all: bool = False
    stateful: bool = False
    also_takes: tuple[str, ...] = ()
    warm_calls: int = 0

    def __str__(self) -> str:
        return self.name

    def fresh(self, keep: float = 0.5, seed: int | None = 0) -> Selector:
        """A new selector."""
        return self.make(keep=keep, seed=seed)

    def choose(self, difficulty: Tensor, *, keep: float = 0.5, seed: int | None = 0, **given: int) -> Selection:
        """The choice of a new selector."""
        return self.choose_from(self.inputs(difficulty), keep=keep, seed=seed, **given)

    def choose_from(self, inputs: Inputs, *, keep: float = 0.5, seed: int | None = 0, **given: int) -> Selection:
        """The choice of a new selector among given inputs."""
        selector = self.fresh(keep, seed)
        for _ in range(self.warm_calls):
            selector(**inputs)
        return selector(**inputs, **given)

    def together(self, inputs: Inputs, *, keep: float = 0.5, seed: int = 0, draws: int = DRAWS) -> Tensor:
        """How often each pair of candidates is chosen together: ``[N, N]``, frequencies over new selectors."""
        n = len(next(iter(inputs.values())))
        draws = draws if self.draws else 1
        counts = torch.zeros(n, n)
        with shapes.unchecked():
            for i in range(draws):
                rows = self.choose_from(inputs, keep=keep, seed=seed + i).indices
                counts[rows[:, None], rows] += 1
        return counts / draws

    def inclusion(self, inputs: Inputs, *, keep: float = 0.5) -> Tensor:
        """How often each candidate is chosen: ``[N]``."""
        return self.together(inputs, keep=keep).diagonal()

    def stream(self, selector: Selector, *, seed: int = 0, calls: int = 6, n: int = 12) -> list[list[int]]:
        """The choices of `selector` in a stream of batches."""
        generator = torch.Generator().manual_seed(seed)
        batches = [20 * torch.rand(n, generator=generator) for _ in range(calls)]
        return [selector(**self.inputs(batch)).indices.tolist() for batch in batches]


def tolerance(draws: int, rows: int = 1) -> float:
    """Five standard errors of a frequency that is measured over `draws` draws of `rows` rows, at worst (p = 1/2)."""
    return 5 * (0.25 / (draws * rows)) ** 0.5
