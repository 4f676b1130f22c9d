"""Small models, losses and raters from which windows are made."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring.meta_gradients import InnerOptimizer, InnerState, LookAhead, LossObjective, MetaGradient, Window

N, CLASSES = 6, 3


class Attention(nn.Module):
    """A transformer of one block, on images as sequences of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = nn.Linear(6, 8), nn.Linear(8, 24), nn.Linear(8, CLASSES)
        self.norm = nn.LayerNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images.flatten(1, 2))
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(F.gelu(x).mean(1))


def convolutional(norm: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), norm(), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 5), nn.GELU(), nn.Linear(5, CLASSES)
    ),
    "batchnorm": lambda: convolutional(lambda: nn.BatchNorm2d(4)),
    "groupnorm": lambda: convolutional(lambda: nn.GroupNorm(2, 4)),
    "attention": Attention,
}


def cross_entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1], reduction="none")


def batch_of(n: int = N, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 6, 6, dtype=dtype), torch.randint(CLASSES, (n,))


def linear_rater(dtype: torch.dtype = torch.float64) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 1, dtype=dtype), nn.Flatten(0))


def window_of(
    model: nn.Module,
    optimizer: InnerOptimizer,
    rater: nn.Module,
    steps: int,
    dtype: torch.dtype = torch.float64,
    loss_fn: Any = cross_entropy,
    warm: int = 2,
    **objective: Any,
) -> tuple[LossObjective, Window]:
    """A window that begins after some steps, so that moments and buffers are not empty."""
    losses = LossObjective(model, loss_fn, **objective)
    parameters, buffers = losses.begin(model)
    state = InnerState(parameters, buffers, optimizer.begin(parameters))
    for _ in range(warm):
        leaves = [p.clone().requires_grad_() for p in state.parameters]
        loss = losses.inner(leaves, buffers, batch_of(dtype=dtype), torch.full((N,), 1 / N, dtype=dtype))
        gradient = list(torch.autograd.grad(loss, leaves, materialize_grads=True))
        parameters, moments = optimizer.update(state.parameters, state.moments, gradient, state.steps)
        state = InnerState(parameters, buffers, moments, state.steps + 1).detached()
    batches = [batch_of(dtype=dtype) for _ in range(steps)]
    return losses, Window(state, batches, batch_of(9, dtype), lambda batch, _: rater(batch[0]), seed=3)


def gradient_of(found: MetaGradient, rater: nn.Module) -> Tensor:
    """The meta-gradient, as one vector."""
    rater.zero_grad()
    found.backward()
    return torch.cat([p.grad.flatten() for p in rater.parameters() if p.grad is not None])


def estimate(estimator: Any, case: tuple[LossObjective, Window], optimizer: InnerOptimizer, rater: nn.Module) -> Tensor:
    return gradient_of(LookAhead(case[0], optimizer, estimator)(case[1]), rater)
