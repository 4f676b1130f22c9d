"""Rows of a dense tensor as blocks of memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from litselect.scoring.forward_reuse.row_layout import RowLayout

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


@dataclass(frozen=True)
class RowBlock:
    """A dense tensor seen as ``[outer, N, inner]``, whatever its shape and memory format.

    Taking rows is then one copy of blocks, and tensors that are views of one another share it.

    Args:
        n: N.
        outer: how many times all rows are repeated in memory.
        inner: how many neighbours belong to a row.
        strides: of the tensor, for which alone this holds.
        kept_shape: of its chosen rows.
        kept_strides: of those, in the same memory format.
    """

    n: int
    outer: int
    inner: int
    strides: tuple[int, ...]
    kept_shape: tuple[int, ...]
    kept_strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor, layout: RowLayout, n: int, k: int) -> RowBlock | None:
        """How `tensor` is seen, ``None`` where it is not dense."""
        order = sorted(range(tensor.ndim), key=lambda d: (-tensor.stride(d), d))  # outermost first
        if not tensor.permute(order).is_contiguous():
            return None
        place = order.index(layout.dim)
        around, within = order[:place], order[place + 1 :]
        shape, strides = list(tensor.shape), list(tensor.stride())
        shape[layout.dim] = shape[layout.dim] // n * k
        for dim in around:
            strides[dim] = strides[dim] // n * k
        outer = layout.outer * prod(tensor.shape[d] for d in around)
        inner = layout.inner * prod(tensor.shape[d] for d in within)
        return cls(n, outer, inner, tensor.stride(), tuple(shape), tuple(strides))

    def take(self, tensor: Tensor, rows: Int[Tensor, " kept"]) -> Tensor:
        """The chosen rows of `tensor`: ``[outer, k, inner]``."""
        n, inner, offset = self.n, self.inner, tensor.storage_offset()
        if self.outer == 1:
            return tensor.as_strided((n, inner), (inner, 1), offset).index_select(0, rows)
        return tensor.as_strided((self.outer, n, inner), (n * inner, inner, 1), offset).index_select(1, rows)

    def shaped(self, taken: Tensor) -> Tensor:
        """What was taken, in the shape and memory format of the tensor."""
        return taken.as_strided(self.kept_shape, self.kept_strides)
