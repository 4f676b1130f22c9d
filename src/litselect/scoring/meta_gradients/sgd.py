"""Stochastic gradient descent as a function."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litselect.scoring.meta_gradients.inner_optimizer import InnerOptimizer, Moments


@dataclass(frozen=True)
class SGD(InnerOptimizer):
    """The update of ``torch.optim.SGD``, with momentum or without.

    Args:
        lr: learning rate.
        momentum: 0 for none.
        dampening: of the momentum, from the second step on.
        weight_decay: added to the gradient, times the parameter.
        nesterov: look ahead along the momentum.
    """

    lr: float = 0.1
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def begin(self, parameters: list[Tensor]) -> Moments:
        """A buffer for each parameter where there is momentum."""
        return {"momentum_buffer": [torch.zeros_like(p) for p in parameters]} if self.momentum else {}

    def update(
        self, parameters: list[Tensor], moments: Moments, gradients: list[Tensor], steps: int
    ) -> tuple[list[Tensor], Moments]:
        """One step."""
        if self.weight_decay:
            gradients = [g + self.weight_decay * p for p, g in zip(parameters, gradients, strict=True)]
        if self.momentum:
            fresh = 1 - self.dampening if steps else 1.0
            buffers = [
                self.momentum * b + fresh * g for b, g in zip(moments["momentum_buffer"], gradients, strict=True)
            ]
            moments = {"momentum_buffer": buffers}
            if self.nesterov:
                gradients = [g + self.momentum * b for b, g in zip(buffers, gradients, strict=True)]
            else:
                gradients = buffers
        return [p - self.lr * g for p, g in zip(parameters, gradients, strict=True)], moments
