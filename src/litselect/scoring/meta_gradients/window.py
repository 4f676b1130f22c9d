"""Some training steps, and the held-out batch that judges them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from litselect.scoring.meta_gradients.inner_state import InnerState
from litselect.scoring.meta_gradients.private_streams import seeded

Rate = Callable[[Any, InnerState], Tensor]
"""``rate(batch, state) -> ratings [N]`` on the rater's graph; `state` is that of the model at this step, detached."""


@dataclass(frozen=True)
class Window:
    """T inner steps from `start`, then one look at the held-out loss.

    Args:
        start: the model before the first step.
        batches: T of them.
        heldout: a batch that no step trains.
        rate: gives the ratings, whose softmax over a batch weighs its examples.
        seed: of the random streams inside the model: step t draws from ``seed + t`` each time it is computed, so that
            dropout masks are the same.
    """

    start: InnerState
    batches: list[Any]
    heldout: Any
    rate: Rate
    seed: int = 0

    def weigh(self, batch: Any, state: InnerState) -> tuple[Tensor, Tensor]:
        """The ratings of a batch and their softmax, ``[N]`` each, on the rater's graph."""
        with torch.enable_grad():
            ratings = self.rate(batch, state.detached())
            return ratings, ratings.softmax(0)

    def draws(self, step: int) -> AbstractContextManager[Any]:
        """Inside, random streams are those of `step`; outside, they are as they were."""
        return seeded(self.seed + step, self.start.parameters[0].device)
