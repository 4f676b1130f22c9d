"""Optimizers as functions make the steps of torch.optim, and can be differentiated."""

from typing import Any

import pytest
import torch
from torch import Tensor

from litselect.scoring.meta_gradients import SGD, Adam, InnerOptimizer

SGDS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"weight_decay": 0.1},
]
ADAMS = [{}, {"betas": (0.8, 0.95), "eps": 1e-3}, {"weight_decay": 0.1}]


def steps_of(optimizer: InnerOptimizer, parameters: list[Tensor], gradients: list[list[Tensor]]) -> list[Tensor]:
    moments = optimizer.begin(parameters)
    for step, gradient in enumerate(gradients):
        parameters, moments = optimizer.update(parameters, moments, gradient, step)
    return parameters


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        *((SGD, torch.optim.SGD, settings) for settings in SGDS),
        *((Adam, torch.optim.Adam, settings) for settings in ADAMS),
        *((Adam, torch.optim.AdamW, {"weight_decay": 0.0, **settings}) for settings in ADAMS),
    ],
)
def test_steps_are_those_of_torch(ours: Any, theirs: Any, settings: dict[str, Any]) -> None:
    start = [torch.randn(4, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)]
    gradients = [[torch.randn_like(p) for p in start] for _ in range(5)]
    live = [p.clone().requires_grad_() for p in start]
    optimizer = theirs(live, lr=0.05, **settings)
    for gradient in gradients:
        for p, g in zip(live, gradient, strict=True):
            p.grad = g.clone()
        optimizer.step()
    if ours is Adam:
        settings = {**settings, "eps_at": "outside", "decoupled": theirs is torch.optim.AdamW}
    found = steps_of(ours(lr=0.05, **settings), start, gradients)
    assert found[0].sub(start[0]).abs().max() > 1e-2
    torch.testing.assert_close(found, [p.detach() for p in live], rtol=1e-12, atol=1e-14)


def test_eps_inside_the_root_is_as_good_a_divisor() -> None:
    start, gradients = [torch.randn(50)], [[torch.randn(50)] for _ in range(5)]
    inside, outside = (steps_of(Adam(eps_at=at), start, gradients) for at in ("inside", "outside"))
    torch.testing.assert_close(inside, outside, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("eps_at", ["inside", "outside"])
def test_a_dead_unit_has_a_derivative(eps_at: Any) -> None:
    gradient = torch.tensor([0.0, 1.0], requires_grad=True)
    (end,) = steps_of(Adam(eps_at=eps_at), [torch.ones(2)], [[gradient]] * 2)
    (slope,) = torch.autograd.grad(end.sum(), gradient)
    assert slope.isfinite().all()


def test_the_root_of_torch_has_none() -> None:
    """What the two forms of eps are for."""
    gradient = torch.tensor([0.0, 1.0], requires_grad=True)
    update = 0.1 * gradient / ((0.001 * gradient.square()).sqrt() + 1e-8)
    assert torch.autograd.grad(update.sum(), gradient)[0].isnan().tolist() == [True, False]


def test_nothing_is_changed_in_place() -> None:
    for optimizer in (SGD(momentum=0.9, weight_decay=0.1), Adam(weight_decay=0.1, decoupled=True)):
        parameters, gradients = [torch.ones(3)], [torch.ones(3)]
        moments = optimizer.begin(parameters)
        optimizer.update(parameters, moments, gradients, 0)
        assert parameters[0].eq(1).all()
        assert gradients[0].eq(1).all()
        assert all(m.eq(0).all() for moment in moments.values() for m in moment)
