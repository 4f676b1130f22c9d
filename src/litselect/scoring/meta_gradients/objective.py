"""Losses as functions of a model's parameters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Buffers = dict[str, Tensor]
LossFunction = Callable[[Any, Any], Tensor]
"""``loss_fn(module, batch) -> Tensor[N]``."""


class Objective(Protocol):
    """What inner steps minimise, and what judges them. Buffers that are passed may be written to."""

    def inner(self, parameters: list[Tensor], buffers: Buffers, batch: Any, weights: Tensor) -> Tensor:
        """The weighted sum of the losses of `batch`."""
        ...

    def outer(self, parameters: list[Tensor], buffers: Buffers, batch: Any) -> Tensor:
        """The mean loss of a held-out batch."""
        ...


class LossObjective:
    """The losses of a model that has a per-example loss function.

    The model runs in training mode on values that it is given: its own parameters, buffers and flags stay as they are.
    Attention runs on the MATH kernel, since the others can be differentiated neither twice nor forward.

    Args:
        module: the model, of which only the structure counts.
        loss_fn: of one batch, ``[N]``.
        outer_loss_fn: of a held-out batch, ``[N]`` or a number; by default `loss_fn`.
        precision: ``"bf16"`` runs the model under bfloat16 autocast; parameters, weights and the update are float32.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: LossFunction,
        outer_loss_fn: LossFunction | None = None,
        precision: Literal["bf16"] | None = None,
    ) -> None:
        self._call = _Call(module)
        self._loss_fn, self._outer_loss_fn = loss_fn, outer_loss_fn or loss_fn
        self._precision = precision
        self.names = [name for name, p in self._call.named_parameters() if p.requires_grad]

    def begin(self, module: nn.Module) -> tuple[list[Tensor], Buffers]:
        """The values of a module of this structure: parameters in the order of `names`; buffers and what is frozen."""
        named = {f"module.{name}": p.detach().clone() for name, p in module.named_parameters()}
        buffers = {f"module.{name}": b.detach().clone() for name, b in module.named_buffers()}
        parameters = [named.pop(name) for name in self.names]
        return parameters, {**named, **buffers}

    def losses(self, parameters: list[Tensor], buffers: Buffers, batch: Any) -> Tensor:
        """The losses of a batch, ``[N]``."""
        return self._run(self._loss_fn, parameters, buffers, batch)

    def inner(self, parameters: list[Tensor], buffers: Buffers, batch: Any, weights: Tensor) -> Tensor:
        """The weighted sum of the losses of `batch`."""
        losses = self.losses(parameters, buffers, batch)
        if losses.shape != weights.shape:
            raise ValueError(
                f"loss_fn must return one loss per example, a tensor of shape {tuple(weights.shape)}, but returned "
                f"{tuple(losses.shape)}. Compute the loss with reduction='none' and average over everything but the "
                "first dimension."
            )
        return (weights * losses).sum()

    def outer(self, parameters: list[Tensor], buffers: Buffers, batch: Any) -> Tensor:
        """The mean loss of a held-out batch."""
        return self._run(self._outer_loss_fn, parameters, buffers, batch).mean()

    def _run(self, function: LossFunction, parameters: list[Tensor], buffers: Buffers, batch: Any) -> Tensor:
        values = {**dict(zip(self.names, parameters, strict=True)), **buffers}
        with sdpa_kernel(SDPBackend.MATH), self._autocast(parameters[0].device.type):
            losses: Tensor = functional_call(self._call, values, (function, batch))
        return losses.float() if losses.dtype in (torch.bfloat16, torch.float16) else losses

    def _autocast(self, device: str) -> AbstractContextManager[Any]:
        return torch.autocast(device, torch.bfloat16) if self._precision == "bf16" else nullcontext()


class _Call(nn.Module):
    """Lets a function of a module run on parameters that are not the module's own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: LossFunction, batch: Any) -> Tensor:
        return function(self.module, batch)
