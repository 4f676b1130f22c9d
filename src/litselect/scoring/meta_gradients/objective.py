"""Losses as functions of a model's parameters."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint

from litselect.scoring.batch_lender import BatchLender
from litselect.scoring.rows import count_rows

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

    The model runs on values that it is given, in whichever mode it is (train or eval): its own parameters, buffers and
    flags stay as they are. Buffers that a pass writes are constants to the derivatives, as in any training.
    Attention runs on the MATH kernel, since the others can be differentiated neither twice nor forward.

    Args:
        module: the model, of which only the structure counts.
        loss_fn: of one batch, ``[N]``.
        outer_loss_fn: of a held-out batch, ``[N]`` or a number; by default `loss_fn`.
        precision: ``"bf16"`` runs the model under bfloat16 autocast; parameters, weights and the update are float32.

    Raises:
        ValueError: if nothing of the model is trained, it is kept in half precision, or `precision` is another.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: LossFunction,
        outer_loss_fn: LossFunction | None = None,
        precision: Literal["bf16"] | None = None,
    ) -> None:
        if precision not in (None, "bf16"):
            raise ValueError(f'Expected precision=None or "bf16", but got {precision!r}. Use "bf16".')
        self._call = _Call(module)
        self._loss_fn, self._outer_loss_fn = loss_fn, outer_loss_fn or loss_fn
        self._inner_batches, self._outer_batches = BatchLender(), BatchLender()  # which may be of different kinds
        self.precision = precision
        self.names = [name for name, p in self._call.named_parameters() if p.requires_grad]
        dtypes = {p.dtype for p in module.parameters() if p.requires_grad}
        if not dtypes or dtypes & {torch.float16, torch.bfloat16}:
            raise ValueError(
                "A model that is trained must have parameters that require gradients, in float32 or float64, but "
                f"{type(module).__name__} has {sorted(map(str, dtypes)) or 'none'}. Keep parameters in float32; "
                'precision="bf16" computes in half precision.'
            )

    def begin(self, module: nn.Module) -> tuple[list[Tensor], Buffers]:
        """The values of a module of this structure: parameters in the order of `names`; buffers and what is frozen."""
        named = {f"module.{name}": p.detach().clone() for name, p in module.named_parameters()}
        buffers = {f"module.{name}": b.detach().clone() for name, b in module.named_buffers()}
        parameters = [named.pop(name) for name in self.names]
        return parameters, {**named, **buffers}

    def losses(self, parameters: list[Tensor], buffers: Buffers, batch: Any) -> Tensor:
        """The losses of a batch, ``[N]``."""
        return self._run(self._loss_fn, parameters, buffers, batch, self._inner_batches)

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
        return self._run(self._outer_loss_fn, parameters, buffers, batch, self._outer_batches).mean()

    def _run(
        self, function: LossFunction, parameters: list[Tensor], buffers: Buffers, batch: Any, batches: BatchLender
    ) -> Tensor:
        values = {**dict(zip(self.names, parameters, strict=True)), **buffers}
        with (
            sdpa_kernel(SDPBackend.MATH),
            self._autocast(parameters[0].device.type),
            _whole_graphs(),
            _lent(batch, batches) as own,
        ):
            losses, written = functional_call(self._call, values, (function, own))
        buffers.update((name, b.detach()) for name, b in written.items() if name in buffers)  # also those it replaced
        return losses.float() if losses.dtype in (torch.bfloat16, torch.float16) else losses

    def _autocast(self, device: str) -> AbstractContextManager[Any]:
        return torch.autocast(device, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def _lent(batch: Any, batches: BatchLender) -> AbstractContextManager[Any]:
    """A batch that a loss may change, as it is run on it again; as it is where nobody knows its rows: a graph, say."""
    try:
        return batches.lent(batch, count_rows(batch))
    except ValueError:
        return nullcontext(batch)


@contextmanager
def _whole_graphs() -> Generator[None]:
    """Refuse activation checkpointing.

    What it computes again in the backward pass it would compute with the module's own parameters, which are back in
    their place by then, and nothing would show it. The name is private; both ends of the supported versions have it.

    Raises:
        RuntimeError: where the model is checkpointed.
    """
    module = cast("Any", checkpoint)
    original = module._checkpoint_hook  # made by the function under whatever name users imported it

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "A look-ahead runs the model on parameters that are not its own, but a part of the model is under "
            "torch.utils.checkpoint, which would compute it again with its own. Turn activation checkpointing off, or "
            "train the rater on a smaller model without."
        )

    module._checkpoint_hook = refuse
    try:
        yield
    finally:
        module._checkpoint_hook = original


class _Call(nn.Module):
    """Lets a function of a module run on parameters that are not the module's own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: LossFunction, batch: Any) -> tuple[Tensor, Buffers]:
        losses = function(self.module, batch)
        return losses, dict(self.named_buffers())
