"""Rows of several candidate batches, collected until a full training batch exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from litselect.scoring.rows import Column, columns_of, constants_of, join, take, with_columns

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


class RefillQueue:
    """First in, first out.

    Kept as columns, so that its state is tensors and lists; a popped batch has the structure of the newest candidates.
    What belongs to a batch as a whole (numbers, strings) must be the same in all batches.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._columns: list[Column] = []
        self._constants: list[Any] | None = None
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def push(self, batch: Any, n: int, indices: Int[Tensor, " kept"]) -> None:
        """Append the rows `indices` of a batch of `n`.

        Raises:
            ValueError: if the rows don't fit the ones that wait: in structure, in shape, or in what belongs to the
                batch as a whole.
        """
        chosen = [take(column, indices) for column in columns_of(batch, n)]
        constants = constants_of(batch, n)
        if self._constants is not None and not _same(self._constants, constants):
            raise ValueError(
                "refill=True puts rows of several batches together, so what belongs to a batch as a whole must not "
                f"change, but {self._constants} was followed by {constants}. "
                "Give it one entry per example, or train without refill."
            )
        self._constants = constants
        if self._columns and len(self._columns) != len(chosen):
            raise ValueError(
                f"refill=True puts rows of several batches together, but a batch of {len(self._columns)} columns was "
                f"followed by one of {len(chosen)}. Let every batch have one structure, or train without refill."
            )
        pairs = zip(self._columns, chosen, strict=True) if self._columns else ()
        self._columns = [join([_beside(old, new), new]) for old, new in pairs] or chosen
        self._rows += indices.numel()

    def pop(self, k: int, batch: Any, n: int) -> Any:
        """The `k` oldest rows, in the structure of `batch`, the newest candidates."""
        out = with_columns(batch, n, [column[:k] for column in self._columns])
        self._drop(k)
        return out

    def limit(self, k: int) -> None:
        """Forget the oldest rows beyond `k`: another rank is slower to fill its batches, and memory is finite."""
        if (excess := self._rows - k) > 0:
            self._drop(excess)
            self.dropped += excess

    def _drop(self, k: int) -> None:
        self._columns = [column[k:] for column in self._columns]
        self._rows -= k

    def state_dict(self) -> dict[str, Any]:
        """The rows that wait, on the CPU, as tensors and plain values."""
        return {"columns": [_plain(column) for column in self._columns], "rows": self._rows, "dropped": self.dropped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; the rows follow the next batch to its device."""
        self._columns = [_restored(column) for column in state["columns"]]
        self._rows, self.dropped = state["rows"], state["dropped"]


def _beside(column: Column, other: Column) -> Column:
    """`column` on the device of `other`."""
    return column.to(other.device) if isinstance(column, torch.Tensor) else column


def _plain(column: Column) -> Any:
    """`column` in types that a checkpoint may hold, without the dropped rows in whose storage a view lives on."""
    if isinstance(column, torch.Tensor):
        return column.detach().to("cpu", copy=True)
    if not isinstance(column, np.ndarray):
        return column
    array = cast("Any", column)
    values = torch.from_numpy(array.copy()) if array.dtype.kind in "biufc" else array.tolist()  # pyright: ignore[reportUnknownMemberType]
    return {"array": values, "dtype": array.dtype.str}


def _restored(column: Any) -> Column:
    if not isinstance(column, dict):
        return column
    values = cast("Any", column["array"])
    return np.array(values.numpy() if isinstance(values, torch.Tensor) else values, cast("Any", column["dtype"]))


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(bool(a is b or a == b) for a, b in zip(one, other, strict=True))
