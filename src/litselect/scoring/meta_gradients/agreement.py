"""Whether a way to differentiate sees all that backward mode sees.

Several things make torch drop a derivative and say nothing. In forward mode an operator of ``torch.library`` without a
rule for it is a constant, and ``torch.no_grad()`` does not stop derivatives, so that what a model means to be constant
is none. In a second backward pass ``torch.autograd.grad`` walks around operators marked ``once_differentiable``.
Differences do not know of ``detach()``. All of these show in one number: the gradient is linear in the weights, so the
influences along it, weighted, must add up to the square of its norm; and along the gradient nothing cancels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litselect.scoring.meta_gradients.derivatives import Derivative, Loss


def require_agreement(
    derivative: Derivative,
    loss: Loss,
    parameters: list[Tensor],
    weights: Tensor,
    gradient: list[Tensor],
    tolerance: float,
) -> None:
    """Check a way to differentiate along a direction.

    Cost: one call of `derivative`.

    Raises:
        NotImplementedError: if the sum is off by more than `tolerance`, relatively.
    """
    influence, _ = derivative(loss, parameters, weights, gradient, gradient, False)
    _compare(influence, weights, gradient, tolerance)


def require_linear(gradient: list[Tensor], weights: Tensor, tolerance: float) -> None:
    """Check a gradient that is on the graph of the weights.

    Cost: one backward pass.

    Raises:
        NotImplementedError: if the sum is off by more than `tolerance`, relatively.
    """
    square = torch.stack([(g * g.detach()).sum() for g in gradient]).sum()
    (influence,) = torch.autograd.grad(square, weights, retain_graph=True, materialize_grads=True)
    _compare(influence, weights, gradient, tolerance)


def _compare(influence: Tensor, weights: Tensor, gradient: list[Tensor], tolerance: float) -> None:
    expected = float(torch.stack([g.detach().double().square().sum() for g in gradient]).sum())
    found = float((weights.detach() * influence).double().sum())
    if abs(found - expected) > tolerance * expected:
        raise NotImplementedError(
            f"The derivative of the loss along its gradient must be {expected:.6g}, the square of its norm, but "
            f"{found:.6g} was found: an operator of the model has no derivative of this kind and keeps quiet about it, "
            "or part of the model is a constant in training that is none here (torch.no_grad(), detach()). Use another "
            'estimator: "unroll", "adjoint" or "fd".'
        )
