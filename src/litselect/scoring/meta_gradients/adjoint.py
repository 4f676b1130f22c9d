"""Meta-gradients step by step backwards, with the graph of one step at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from litselect.scoring.meta_gradients.derivatives import Derivative
from litselect.scoring.meta_gradients.inner_optimizer import InnerOptimizer, Moments
from litselect.scoring.meta_gradients.inner_state import InnerState
from litselect.scoring.meta_gradients.meta_gradient import MetaGradient
from litselect.scoring.meta_gradients.objective import Objective
from litselect.scoring.meta_gradients.window import Window


@dataclass(frozen=True)
class _Step:
    """What a step has to keep until it is differentiated."""

    state: InnerState  # before it
    batch: Any
    weights: Tensor
    gradient: list[Tensor]


def adjoint(objective: Objective, optimizer: InnerOptimizer, window: Window, derivative: Derivative) -> MetaGradient:
    r"""Go backwards with :math:`\lambda = \partial L / \partial \theta_t`.

    At each step the update, which is elementwise, carries :math:`\lambda` over to the gradient: the direction u.
    Along u the derivative of the weighted loss with respect to the weights is the influence of the examples, and the
    change of the gradient is :math:`H u`, which joins :math:`\lambda` on its way to the step before. The first step
    needs no :math:`H u`: for T = 1 nothing is of second order.
    """
    ratings: list[Tensor] = []
    weights: list[Tensor] = []
    steps: list[_Step] = []
    state = window.start.detached()
    for number, batch in enumerate(window.batches):
        rating, weight = window.weigh(batch, state)
        ratings.append(rating)
        weights.append(weight)
        with window.draws(number):
            step, state = _forward(objective, optimizer, state, batch, weight.detach())
        steps.append(step)
    with window.draws(len(steps)):
        loss, slope = _outer(objective, state, window.heldout)
    past: Moments = {name: [torch.zeros_like(m) for m in moment] for name, moment in state.moments.items()}
    influences: list[Tensor] = []
    for number, step in reversed([*enumerate(steps)]):
        slope, past, direction = _through_update(optimizer, step, slope, past)

        def inner(parameters: list[Tensor], weights: Tensor, step: _Step = step, number: int = number) -> Tensor:
            with window.draws(number):
                return objective.inner(parameters, step.state.cloned_buffers(), step.batch, weights)

        influence, change = derivative(inner, step.state.parameters, step.weights, step.gradient, direction, number > 0)
        influences.insert(0, influence.detach())
        if change is not None:
            slope = [a + b for a, b in zip(slope, change, strict=True)]
    return MetaGradient(loss, influences, ratings, weights, state)


def _forward(
    objective: Objective, optimizer: InnerOptimizer, state: InnerState, batch: Any, weights: Tensor
) -> tuple[_Step, InnerState]:
    buffers = state.cloned_buffers()
    leaves = [p.detach().requires_grad_() for p in state.parameters]
    with torch.enable_grad():
        found = torch.autograd.grad(objective.inner(leaves, buffers, batch, weights), leaves, materialize_grads=True)
    gradient = list(found)
    with torch.no_grad():
        parameters, moments = optimizer.update(state.parameters, state.moments, gradient, state.steps)
    return _Step(state, batch, weights, gradient), InnerState(parameters, buffers, moments, state.steps + 1).detached()


def _outer(objective: Objective, state: InnerState, heldout: Any) -> tuple[Tensor, list[Tensor]]:
    leaves = [p.detach().requires_grad_() for p in state.parameters]
    with torch.enable_grad():
        loss = objective.outer(leaves, state.cloned_buffers(), heldout)
        slope = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return loss.detach(), list(slope)


def _through_update(
    optimizer: InnerOptimizer, step: _Step, slope: list[Tensor], past: Moments
) -> tuple[list[Tensor], Moments, list[Tensor]]:
    """The derivatives with respect to parameters, moments and gradient before the update, given those after it."""
    parameters = [p.detach().requires_grad_() for p in step.state.parameters]
    gradient = [g.detach().requires_grad_() for g in step.gradient]
    moments = {name: [m.detach().requires_grad_() for m in moment] for name, moment in step.state.moments.items()}
    before = [*parameters, *gradient, *(m for moment in moments.values() for m in moment)]
    with torch.enable_grad():
        new, after = optimizer.update(parameters, moments, gradient, step.state.steps)
        outputs = [*new, *(m for name in moments for m in after[name])]
        given = [*slope, *(m for name in moments for m in past[name])]
        found = list(torch.autograd.grad(outputs, before, given, materialize_grads=True))
    n = len(parameters)
    rest = iter(found[2 * n :])
    return found[:n], {name: [next(rest) for _ in moment] for name, moment in moments.items()}, found[n : 2 * n]
