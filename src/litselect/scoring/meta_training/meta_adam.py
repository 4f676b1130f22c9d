"""The optimizer of a rater that several inner models train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class MetaAdam:
    r"""One Adam for each inner model; the rater moves by the mean of what they propose.

    Meta-gradients of models of different ages differ in scale by orders of magnitude. Averaging the *updates* gives
    each model one voice; averaging gradients would leave the word to whichever has the largest.

    Args:
        parameters: of the rater, changed in place.
        population: number of inner models.
        lr: learning rate after warm-up.
        weight_decay: decoupled.
        warmup: meta-steps over which the learning rate rises linearly.
        clip: largest norm of a meta-gradient.
        betas: decay of the moments.
        eps: least divisor; tiny, as meta-gradients are.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        population: int,
        lr: float,
        weight_decay: float,
        warmup: int,
        clip: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-12,
    ) -> None:
        self._parameters, self.lr, self.weight_decay, self.warmup, self.clip = (
            parameters,
            lr,
            weight_decay,
            warmup,
            clip,
        )
        self.betas, self.eps, self.steps = betas, eps, 0
        self._mean = [[torch.zeros_like(p) for p in parameters] for _ in range(population)]
        self._square = [[torch.zeros_like(p) for p in parameters] for _ in range(population)]
        self._proposed: list[list[Tensor]] = []

    def propose(self, model: int, gradient: list[Tensor]) -> Tensor:
        """Take notice of the meta-gradient that an inner model found; answers with its norm before clipping."""
        norm = torch.stack([g.square().sum() for g in gradient]).sum().sqrt()
        factor = (self.clip / norm.clamp_min(1e-30)).clamp_max(1.0)
        (first, second), count = self.betas, self.steps + 1
        proposed: list[Tensor] = []
        for p, g, mean, square in zip(self._parameters, gradient, self._mean[model], self._square[model], strict=True):
            mean.lerp_(factor * g, 1 - first)
            square.lerp_((factor * g).square(), 1 - second)
            root = (square / (1 - second**count)).sqrt() + self.eps
            proposed.append(mean / (1 - first**count) / root + self.weight_decay * p.detach())
        self._proposed.append(proposed)
        return norm

    @torch.no_grad()
    def step(self) -> None:
        """Move by the mean of the proposals."""
        self.steps += 1
        rate = self.lr * min(1.0, self.steps / max(1, self.warmup))
        for p, *moves in zip(self._parameters, *self._proposed, strict=True):
            p.sub_(rate * torch.stack(moves).mean(0))
        self._proposed = []

    def state_dict(self) -> dict[str, Any]:
        """Moments of all models."""
        return {"steps": self.steps, "mean": self._mean, "square": self._square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.steps = state["steps"]
        for own, saved in ((self._mean, state["mean"]), (self._square, state["square"])):
            for mine, theirs in zip(own, saved, strict=True):
                for a, b in zip(mine, theirs, strict=True):
                    a.copy_(b)
