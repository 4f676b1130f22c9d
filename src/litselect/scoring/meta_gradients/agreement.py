"""Whether a way to differentiate sees all that backward mode sees.

Several things make torch drop a derivative and say nothing. In forward mode an operator of ``torch.library`` without a
rule for it is a constant, and ``torch.no_grad()`` does not stop derivatives, so that what a model means to be constant
is none. In a second backward pass ``torch.autograd.grad`` walks around operators marked ``once_differentiable``.
Differences do not know of ``detach()``. All of these show in one number: the gradient is linear in the weights, but for
what does not depend on them (a penalty), so the influences along it, weighted, must add up to its product with itself
less that; and along the gradient nothing cancels.
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

    Cost: one call of `derivative`, and a forward and backward pass.

    Raises:
        NotImplementedError: if the sum is off by more than `tolerance`, relatively.
    """
    influence, _ = derivative(loss, parameters, weights, gradient, gradient, False)
    _compare(influence, weights, gradient, unweighted(loss, parameters, weights), tolerance)


def unweighted(loss: Loss, parameters: list[Tensor], weights: Tensor) -> list[Tensor]:
    """The gradient of what in a loss does not depend on the weights."""
    leaves = [p.detach().requires_grad_() for p in parameters]
    with torch.enable_grad():
        return [*torch.autograd.grad(loss(leaves, torch.zeros_like(weights)), leaves, materialize_grads=True)]


def require_linear(gradient: list[Tensor], weights: Tensor, constant: list[Tensor], tolerance: float) -> None:
    """Check a gradient that is on the graph of the weights; `constant` is that of what does not depend on them.

    Cost: one backward pass.

    Raises:
        NotImplementedError: if the sum is off by more than `tolerance`, relatively.
    """
    square = torch.stack([(g * g.detach()).sum() for g in gradient]).sum()
    (influence,) = torch.autograd.grad(square, weights, retain_graph=True, materialize_grads=True)
    _compare(influence, weights, gradient, constant, tolerance)


def _compare(
    influence: Tensor, weights: Tensor, gradient: list[Tensor], constant: list[Tensor], tolerance: float
) -> None:
    whole = torch.cat([g.detach().double().flatten() for g in gradient])
    part = whole - torch.cat([c.detach().double().flatten() for c in constant])
    expected = float(part @ whole)
    found = float((weights.detach() * influence).double().sum())
    if abs(found - expected) > tolerance * float((part @ part * (whole @ whole)).sqrt()):
        raise NotImplementedError(  # as torch does where it notices: other estimators are tried then
            f"The derivative of the weighted losses along the gradient must be {expected:.6g}, as that is linear in "
            f"the weights, but {found:.6g} was found: an operator of the model has no derivative of this kind and "
            "keeps quiet about it, or part of the model is a constant in training that is none here (torch.no_grad(), "
            'detach()). Use another estimator: "unroll", "adjoint" or "fd".'
        )
