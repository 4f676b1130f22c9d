"""A real computation of the chosen rows under the dropout and the batch statistics of all candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from litselect.scoring.forward_reuse.op_traits import OpTraits, traits_of
from litselect.scoring.forward_reuse.plan import Plan
from litselect.scoring.forward_reuse.recorder import Recorder
from litselect.scoring.forward_reuse.row_layout import RowLayout
from litselect.scoring.forward_reuse.saved_rows import SavedRows
from litselect.scoring.forward_reuse.unsupported import Diverged, Reached, Unsupported

_COMPARED = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32})


class DrawnValues(TorchDispatchMode):
    """Runs a forward up to its first loss and keeps what it draws, and the statistics of its batch normalisations.

    Args:
        length: how many operations come before the first loss.
    """

    def __init__(self, length: int) -> None:
        cast("Any", super()).__init__()
        self._length, self._i = length, 0
        self.values: dict[int, tuple[Tensor, ...]] = {}

    def collect(self, step: Callable[[], Any]) -> dict[int, tuple[Tensor, ...]]:
        """What was drawn, by the number of the operation."""
        try:
            with self, torch.autograd.graph.saved_tensors_hooks(lambda _: None, _nothing):
                step()
        except Reached:
            pass
        return self.values

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._i == self._length:
            raise Reached
        result: Any = func(*args, **(kwargs or {}))
        traits = traits_of(func)
        if traits.is_random or traits.is_batch_norm:
            items = cast("tuple[Any, ...]", result if isinstance(result, (tuple, list)) else (result,))
            self.values[self._i] = tuple(item.clone() for item in items)
        self._i += 1
        return cast("Any", result)


class Reference(TorchDispatchMode):
    """A real forward and graph of k rows, with the recorded forward's dropout masks and batch statistics.

    Args:
        plan: where the rows lie.
        recorder: the forward of N rows.
        rows: ``[k]``.
        values: what the forward of N rows drew.

    Attributes:
        difference: the largest relative difference between a held result and the recorded rows of it.
        reduced: the same, of results that have no rows.
    """

    def __init__(self, plan: Plan, recorder: Recorder, rows: Tensor, values: dict[int, tuple[Tensor, ...]]) -> None:
        cast("Any", super()).__init__()
        self._plan, self._recorder, self._values = plan, recorder, values
        self._slices = SavedRows(plan, rows)
        self._i = 0
        self._packing = False
        self.difference = self.reduced = 0.0

    def run(self, step: Callable[[], Any]) -> Any:
        """What `step` returns. Autograd saves through hooks, without which it would call other operations."""
        with self, torch.autograd.graph.saved_tensors_hooks(self._pack, _same):
            return step()

    def _pack(self, tensor: Tensor) -> Tensor:
        self._packing = True
        try:
            return tensor.detach()  # itself it would hold its own graph, and never be freed
        finally:
            self._packing = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._packing:
            return func(*args, **(kwargs or {}))
        i = self._i
        self._i += 1
        if i == len(self._plan.calls):
            for restore in self._recorder.restore_streams:
                restore()
        elif i < len(self._plan.calls) and self._plan.calls[i][0] is not func:
            raise Diverged(f"operation {i} was {self._plan.calls[i][0]}, but is now {func}")
        result: Any = func(*args, **(kwargs or {}))
        if i in self._values:
            result = self._as_recorded(traits_of(func), result, self._values[i], args, kwargs or {})
        if i < len(self._plan.calls):
            self._compare(i, result)
        return result

    def _as_recorded(
        self, traits: OpTraits, result: Any, values: tuple[Tensor, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`result` as it would be with what the forward of N rows drew."""
        if traits.is_batch_norm:
            return _normalised(result, values, args)
        if traits.name == "aten::native_dropout":
            mask = self._rows_of(values[1], result[1])
            return args[0] * mask * (1 / (1 - args[1]) if args[1] < 1 else 0), mask
        several = isinstance(result, (tuple, list))
        items = cast("tuple[Tensor, ...]", result if several else (result,))
        for item, value in zip(items, values, strict=True):
            item.copy_(self._rows_of(value, item))
        return result

    def _rows_of(self, value: Tensor, like: Tensor) -> Tensor:
        """The rows of a tensor which may be none of those that the plan knows: as of another of its shape."""
        if value.shape == like.shape:
            return value
        dim = next(d for d, (a, b) in enumerate(zip(value.shape, like.shape, strict=True)) if a != b)
        factor = value.shape[dim] // self._plan.n
        alike = [x for x in (*self._plan.saved, *self._plan.results.values()) if isinstance(x, RowLayout)]
        splits = [(x.outer, x.inner) for x in alike if x.outer * x.inner == factor]
        split = max(set(splits), key=splits.count) if splits else (1, factor)
        return self._slices.rows(value, RowLayout(dim, *split))

    def _compare(self, i: int, result: Any) -> None:
        items = cast("tuple[Any, ...]", result if isinstance(result, (tuple, list)) else (result,))
        for j, item in enumerate(items):
            if (i, j) not in self._plan.results or item.dtype not in _COMPARED:
                continue
            layout, recorded = self._plan.results[i, j], self._recorder.alive[i, j]
            if recorded._version or isinstance(layout, Unsupported):
                continue  # it was changed in place since
            recorded = self._slices.rows(recorded, layout).double()
            if recorded.isfinite().all():
                difference = float(norm_of(item.double() - recorded) / norm_of(recorded).clamp_min(1e-12))
                if layout is not None:
                    self.difference = max(self.difference, difference)
                elif torch.Tag.nondeterministic_seeded not in self._plan.calls[i][0].tags:  # whose seeds may be any
                    self.reduced = max(self.reduced, difference)


def _normalised(result: Any, values: tuple[Tensor, ...], args: tuple[Any, ...]) -> Any:
    mean, scale = values[1], values[2]
    if mean.shape != result[1].shape or mean.numel() == 0:
        return result  # of each example (instance normalisation), or running statistics
    x, weight, bias = args[0], args[1], args[2]
    shape = (1, -1, *[1] * (x.ndim - 2))
    out = (x - mean.reshape(shape)) * scale.reshape(shape)
    out = out if weight is None else out * weight.reshape(shape)
    out = out if bias is None else out + bias.reshape(shape)
    result[0].copy_(out)
    return (result[0], mean, scale, *result[3:])


def _nothing(_: Any) -> Tensor:
    raise Unsupported("the forward goes backward before its first loss")


def _same(packed: Any) -> Any:
    return packed


def norm_of(tensor: Tensor) -> Tensor:
    """The Euclidean norm of all elements."""
    return tensor.square().sum().sqrt()
