"""A batch that is lent to a step which may change it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor

from litselect.scoring.rows import Column, columns_of, map_columns


class BatchLender:
    """Lends batches to scoring passes, and gets them back as they were.

    What a step puts into a dict or a list, or takes out, it does to containers of its own. Tensors are lent as copies
    as long as steps write to them; whether they do shows with the first batch. A step that begins to write later is
    refused, for what it wrote over is gone. Arrays and Python objects are lent as they are.

    Cost: new containers; one copy of the first batch, and of each batch for steps that write.

    Attributes:
        writes: whether the newest step wrote to tensors.
    """

    def __init__(self) -> None:
        self.writes = False
        self._copies = True

    @contextmanager
    def lent(self, batch: Any, n: int) -> Generator[Any]:
        """Inside, the `batch` of `n` rows that a step may have.

        Raises:
            RuntimeError: if the step wrote to tensors that it had not written to in the first batch.
        """
        copies = self._copies
        own = map_columns(batch, n, _copied) if copies else in_own_containers(batch, n)
        versions = [(tensor, tensor._version) for tensor in _tensors_of(own, n)]
        yield own
        self.writes = self._copies = any(tensor._version != version for tensor, version in versions)
        if self.writes and not copies:
            raise RuntimeError(
                "Scoring passes and look-ahead steps leave the batch as it is, but training_step wrote to a tensor of "
                "its batch in place, which it had not done in the first batch, so that the rows would be trained as it "
                "changed them. Let it write to a copy: x = x.clone()."
            )


def in_own_containers(batch: Any, n: int) -> Any:
    """A `batch` of `n` rows with the same tensors in new dicts and lists."""
    return map_columns(batch, n, _shared)


def _tensors_of(batch: Any, n: int) -> list[Tensor]:
    return [column for column in columns_of(batch, n) if isinstance(column, Tensor) and not column.is_inference()]


def _copied(column: Column) -> Column:
    return column.clone() if isinstance(column, Tensor) else _shared(column)


def _shared(column: Column) -> Column:
    return [*cast("list[Any]", column)] if type(column) is list else column
