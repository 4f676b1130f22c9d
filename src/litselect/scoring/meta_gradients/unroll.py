"""Meta-gradients by autograd through the training steps themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from litselect.scoring.meta_gradients.agreement import require_linear, unweighted
from litselect.scoring.meta_gradients.inner_optimizer import InnerOptimizer
from litselect.scoring.meta_gradients.inner_state import InnerState
from litselect.scoring.meta_gradients.meta_gradient import MetaGradient
from litselect.scoring.meta_gradients.objective import Objective
from litselect.scoring.meta_gradients.window import Window


def unroll(
    objective: Objective, optimizer: InnerOptimizer, window: Window, tolerance: float | None = None
) -> MetaGradient:
    """Keep the graph of every step, and go backward through all of it; with `tolerance`, check the first step's."""
    ratings: list[Tensor] = []
    weights: list[Tensor] = []
    leaves: list[Tensor] = []
    state = window.start.detached()
    with torch.enable_grad():
        for p in state.parameters:
            p.requires_grad_()
        for step, batch in enumerate(window.batches):
            rating, weight = window.weigh(batch, state)
            leaf = weight.detach().requires_grad_()
            check = None
            if tolerance is not None and not step:
                with window.draws(step):
                    constant = _unweighted(objective, state, batch, weight)
                check = partial(require_linear, weights=leaf, constant=constant, tolerance=tolerance)
            with window.draws(step):
                state = _step(objective, optimizer, state, batch, leaf, check)
            ratings.append(rating)
            weights.append(weight)
            leaves.append(leaf)
        with window.draws(len(leaves)):
            loss = objective.outer(state.parameters, state.cloned_buffers(), window.heldout)
        influences = list(torch.autograd.grad(loss, leaves, materialize_grads=True))
    return MetaGradient(loss.detach(), influences, ratings, weights, state.detached())


def _unweighted(objective: Objective, state: InnerState, batch: Any, weights: Tensor) -> list[Tensor]:
    buffers = state.cloned_buffers()
    return unweighted(lambda leaves, zeros: objective.inner(leaves, buffers, batch, zeros), state.parameters, weights)


def _step(
    objective: Objective,
    optimizer: InnerOptimizer,
    state: InnerState,
    batch: Any,
    weights: Tensor,
    check: Callable[[list[Tensor]], None] | None,
) -> InnerState:
    buffers = state.cloned_buffers()
    loss = objective.inner(state.parameters, buffers, batch, weights)
    gradient = torch.autograd.grad(loss, state.parameters, create_graph=True, materialize_grads=True)
    if check is not None:
        check(list(gradient))
    parameters, moments = optimizer.update(state.parameters, state.moments, list(gradient), state.steps)
    return InnerState(parameters, buffers, moments, state.steps + 1)
