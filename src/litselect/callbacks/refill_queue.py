"""Rows of several candidate batches, collected until a full training batch exists."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from litselect.callbacks.check_state import REMEDY, check_state
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
        old, new = [_kind(column) for column in self._columns], [_kind(column) for column in chosen]
        if self._columns and old != new:
            raise ValueError(
                f"refill=True puts rows of several batches together, but a batch of {len(old)} columns "
                f"({', '.join(old)}) was followed by one of {len(new)} ({', '.join(new)}). Let every batch have one "
                "structure, or train without refill."
            )
        pairs = zip(self._columns, chosen, strict=True) if self._rows else ()  # of none, the shape is no matter
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
        """The rows that wait, on the CPU, as tensors and plain values.

        Rows of Python objects are left out, and are not trained after a resume: no checkpoint that holds them could be
        loaded with ``weights_only=True``.
        """
        columns = [_plain(column) for column in self._columns]
        if strange := sorted({kind for column in columns for kind in _strange(column)}):
            warnings.warn(
                f"{self._rows} rows wait for a full training batch, but no checkpoint can hold entries of "
                f"{', '.join(strange)}: a run that resumes from it goes on without these rows. Let the collate "
                "function return tensors, numbers or strings.",
                stacklevel=2,
            )
            return {"columns": [], "rows": 0, "dropped": self.dropped + self._rows}
        return {"columns": columns, "rows": self._rows, "dropped": self.dropped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; the rows follow the next batch to its device.

        Raises:
            ValueError: if it isn't the state of a queue.
        """
        check_state("a refill queue", state, self.state_dict())
        columns, rows, dropped = [_restored(column) for column in state["columns"]], state["rows"], state["dropped"]
        lengths = [len(column) for column in columns]
        if dropped < 0 or (rows and not columns) or set(lengths) - {rows}:
            raise ValueError(
                f"Every column of a refill queue must hold all its rows, but got {rows} rows, {dropped} dropped, and "
                f"columns of {lengths}. {REMEDY}"
            )
        self._columns, self._rows, self.dropped = columns, rows, dropped


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
    if array.dtype.kind in "mM":  # times are numbers, which torch knows by that name alone
        array = array.astype(np.int64)
    native = array.astype(array.dtype.newbyteorder("="))  # a copy
    values = torch.from_numpy(native) if array.dtype.kind in "biufc" else native.tolist()  # pyright: ignore[reportUnknownMemberType]
    return {"array": values, "dtype": cast("Any", column).dtype.str}


def _strange(value: Any) -> Iterator[str]:
    """The kinds of objects in a column that a checkpoint can't hold."""
    if isinstance(value, dict):
        value = cast("Any", value)["array"]
    if type(value) in (list, tuple):
        for item in cast("list[Any]", value):
            yield from _strange(item)
    elif not isinstance(value, torch.Tensor) and type(value) not in (str, bytes, int, float, bool, complex, type(None)):
        yield type(value).__name__


def _restored(column: Any) -> Column:
    restored: Any = column
    if isinstance(column, dict) and column.keys() == {"array", "dtype"}:
        values, dtype = (cast("Any", column)[name] for name in ("array", "dtype"))
        with contextlib.suppress(TypeError, ValueError):  # a dtype that is none, or not that of the values
            restored = np.array(values.numpy() if isinstance(values, torch.Tensor) else values, dtype)
    if not isinstance(restored, (list, tuple)) and not getattr(restored, "ndim", 0):
        raise ValueError(
            "A column of a refill queue must be a tensor or array with one entry per row, or a list, but a "
            f"{type(restored).__name__} was received. {REMEDY}"
        )
    return cast("Column", restored)


def _kind(column: Column) -> str:
    """What must not change from batch to batch: joined columns of two kinds would silently become one of a third."""
    if isinstance(column, np.ndarray):
        return f"array of kind {cast('Any', column).dtype.kind}"
    return str(column.dtype) if isinstance(column, torch.Tensor) else type(column).__name__


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(bool(a is b or a == b) for a, b in zip(one, other, strict=True))
