"""Adam and AdamW as functions.

Kingma & Ba, 2015, https://arxiv.org/abs/1412.6980; Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from litselect.scoring.meta_gradients.inner_optimizer import InnerOptimizer, Moments


@dataclass(frozen=True)
class Adam(InnerOptimizer):
    r"""Adam; with ``decoupled=True``, AdamW.

    The update divides by a root, whose derivative at 0 is infinite: a unit that is dead would make every meta-gradient
    NaN. With ``eps_at="inside"`` it divides by :math:`\sqrt{\hat v + \epsilon^2}`, smooth everywhere: for models of our
    own. With ``eps_at="outside"`` by :math:`\sqrt{\hat v} + \epsilon` as ``torch.optim.Adam`` does, with the derivative
    at 0 taken as 0: for the update that a live model is really going to make.

    Args:
        lr: learning rate.
        betas: decay of the two moments.
        eps: least divisor.
        weight_decay: pulls parameters to zero.
        decoupled: whether apart from the gradient (AdamW).
        eps_at: see above.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    eps_at: Literal["inside", "outside"] = "inside"

    def begin(self, parameters: list[Tensor]) -> Moments:
        """Two moments for each parameter."""
        return {name: [torch.zeros_like(p) for p in parameters] for name in ("exp_avg", "exp_avg_sq")}

    def update(
        self, parameters: list[Tensor], moments: Moments, gradients: list[Tensor], steps: int
    ) -> tuple[list[Tensor], Moments]:
        """One step."""
        if self.weight_decay and self.decoupled:
            parameters = [p * (1 - self.lr * self.weight_decay) for p in parameters]
        elif self.weight_decay:
            gradients = [g + self.weight_decay * p for p, g in zip(parameters, gradients, strict=True)]
        first, second = self.betas
        mean = [first * m + (1 - first) * g for m, g in zip(moments["exp_avg"], gradients, strict=True)]
        square = [second * v + (1 - second) * g * g for v, g in zip(moments["exp_avg_sq"], gradients, strict=True)]
        size = self.lr / (1 - first ** (steps + 1))
        parameters = [
            p - size * m / self._root(v / (1 - second ** (steps + 1)))
            for p, m, v in zip(parameters, mean, square, strict=True)
        ]
        return parameters, {"exp_avg": mean, "exp_avg_sq": square}

    def _root(self, square: Tensor) -> Tensor:
        if self.eps_at == "inside":
            return (square + self.eps**2).sqrt()
        dead = square == 0
        return torch.where(dead, 0.0, torch.where(dead, 1.0, square).sqrt()) + self.eps
