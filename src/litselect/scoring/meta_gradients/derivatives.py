"""Three ways to differentiate a weighted loss along a direction.

Each answers, for ``loss(parameters, weights)`` that is linear in the weights, with the derivative along the direction
of the loss with respect to each weight, and, where asked, with that of the gradient (a Hessian-vector product).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad as untyped_forward_ad

forward_ad = cast("Any", untyped_forward_ad)

Loss = Callable[[list[Tensor], Tensor], Tensor]
"""``loss(parameters, weights) -> scalar``."""
Along = tuple[Tensor, "list[Tensor] | None"]
Derivative = Callable[[Loss, list[Tensor], Tensor, list[Tensor], list[Tensor], bool], Along]
"""Called with the loss, parameters, weights, the gradient there, the direction, and whether its change is wanted."""


def forward_mode(
    loss: Loss,
    parameters: list[Tensor],
    weights: Tensor,
    gradient: list[Tensor],
    direction: list[Tensor],
    hessian: bool,
) -> Along:
    """Exact. Costs two forward passes; with `hessian`, about two steps. Raises where an operator has no rule for it."""
    _load_rules()
    weights = weights.detach().requires_grad_()
    leaves = [p.detach().requires_grad_(hessian) for p in parameters]
    with forward_ad.dual_level(), torch.enable_grad():
        value = loss([forward_ad.make_dual(p, u) for p, u in zip(leaves, direction, strict=True)], weights)
        change: Tensor | None = forward_ad.unpack_dual(value).tangent
        if change is None:  # a loss that depends on no parameter
            return torch.zeros_like(weights), [torch.zeros_like(p) for p in parameters] if hessian else None
        (influence,) = torch.autograd.grad(change, weights, retain_graph=hessian)
        if not hessian:
            return influence, None
        found = torch.autograd.grad(value, leaves, materialize_grads=True)
        tangents = [forward_ad.unpack_dual(g).tangent for g in found]
    return influence, [torch.zeros_like(p) if t is None else t for p, t in zip(leaves, tangents, strict=True)]


@cache
def _load_rules() -> None:
    """The first use of forward mode compiles its rules, which warns of torch's own deprecated calls."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def double_backward(
    loss: Loss,
    parameters: list[Tensor],
    weights: Tensor,
    gradient: list[Tensor],
    direction: list[Tensor],
    hessian: bool,
) -> Along:
    """Exact. Costs about three steps and keeps the graph of one. Raises where an operator has no second derivative."""
    weights = weights.detach().requires_grad_()
    leaves = [p.detach().requires_grad_() for p in parameters]
    with torch.enable_grad():
        first = torch.autograd.grad(loss(leaves, weights), leaves, create_graph=True, materialize_grads=True)
        along = cast("Tensor", sum((g * u).sum() for g, u in zip(first, direction, strict=True)))
        influence, *change = torch.autograd.grad(along, [weights, *(leaves if hessian else [])], materialize_grads=True)
    return influence, change if hessian else None


def finite_differences(
    loss: Loss,
    parameters: list[Tensor],
    weights: Tensor,
    gradient: list[Tensor],
    direction: list[Tensor],
    hessian: bool,
) -> Along:
    """Central differences: for operators that know one derivative only. Costs two forward passes, or two steps.

    Where the gradient is exactly zero the direction is not followed: the parameter belongs to a dead unit, which a
    small move leaves dead, while Adam's update, and so the direction, is huge there.
    """
    direction = [torch.where(g == 0, 0.0, u) for g, u in zip(gradient, direction, strict=True)]
    norm = _norm(direction)
    if not norm:
        return torch.zeros_like(weights), [torch.zeros_like(p) for p in parameters] if hessian else None
    precision = torch.finfo(parameters[0].dtype).eps
    step = precision ** (1 / 3) / norm  # moves by 0.005 in float32, however large the parameters are
    ends: list[tuple[Tensor, tuple[Tensor, ...]]] = []
    for sign in (1, -1):
        at = (
            weights.detach().to(parameters[0].dtype).requires_grad_()
        )  # a difference of derivatives in all their digits
        leaves = [
            (p + sign * step * u).detach().requires_grad_(hessian) for p, u in zip(parameters, direction, strict=True)
        ]
        with torch.enable_grad():
            value = loss(leaves, at)
            influence, *slope = torch.autograd.grad(value, [at, *(leaves if hessian else [])], materialize_grads=True)
        ends.append((influence, tuple(slope)))
    (ahead, slope_ahead), (behind, slope_behind) = ends
    change = [(a - b) / (2 * step) for a, b in zip(slope_ahead, slope_behind, strict=True)]
    return ((ahead - behind) / (2 * step)).to(weights.dtype), change if hessian else None


def _norm(tensors: list[Tensor]) -> float:
    return torch.stack([t.detach().double().square().sum() for t in tensors]).sum().sqrt().item()
