"""Inner models of all ages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from litselect.scoring.meta_gradients import InnerOptimizer, InnerState, LossObjective
from litselect.scoring.meta_gradients.private_streams import seeded

InnerFactory = Callable[[], nn.Module]


class Population:
    """Models that are trained on and on, and start anew one after the other.

    A rater that only ever sees young models learns what is good for young models. So the first lives are of staggered
    lengths (a share 1/P, 2/P, ... of a lifetime), and at any time there are models of all ages.

    Args:
        factory: makes a model; its random initialisation differs from life to life.
        objective: knows the structure.
        optimizer: of the models.
        size: P.
        lifetime: in meta-steps.
        seed: of the initialisations.
        device: where they live.
    """

    def __init__(
        self,
        factory: InnerFactory,
        objective: LossObjective,
        optimizer: InnerOptimizer,
        size: int,
        lifetime: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._factory, self._objective, self._optimizer = factory, objective, optimizer
        self._lifetime, self._seed, self._device = lifetime, seed, device
        self.lives = [0] * size  # how many each place has had before
        self.ages = [0] * size  # meta-steps of the present one
        self.states = [self._born(place) for place in range(size)]

    def advance(self, place: int, state: InnerState) -> None:
        """A meta-step has passed for one model."""
        self.states[place] = state
        self.ages[place] += 1

    def renew(self) -> list[int]:
        """Let models whose time is over start anew; answers with their places."""
        ended = [place for place, age in enumerate(self.ages) if age >= self._span(place)]
        for place in ended:
            self.lives[place] += 1
            self.ages[place] = 0
            self.states[place] = self._born(place)
        return ended

    def _span(self, place: int) -> int:
        if self.lives[place]:
            return self._lifetime
        return max(1, round(self._lifetime * (place + 1) / len(self.lives)))

    def _born(self, place: int) -> InnerState:
        (seed,) = np.random.SeedSequence((self._seed, place, self.lives[place])).generate_state(1)
        with seeded(int(seed), self._device):
            parameters, buffers = self._objective.begin(self._factory().to(self._device))
        return InnerState(parameters, buffers, self._optimizer.begin(parameters))

    def state_dict(self) -> dict[str, Any]:
        """All models."""
        return {"lives": self.lives, "ages": self.ages, "states": [state.state_dict() for state in self.states]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the models of `state`."""
        self.lives, self.ages = list(state["lives"]), list(state["ages"])
        self.states = [_moved(InnerState(**values), self._device) for values in state["states"]]


def _moved(state: InnerState, device: torch.device) -> InnerState:
    return InnerState(
        [p.to(device) for p in state.parameters],
        {name: buffer.to(device) for name, buffer in state.buffers.items()},
        {name: [m.to(device) for m in moment] for name, moment in state.moments.items()},
        state.steps,
    )
