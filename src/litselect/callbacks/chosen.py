"""What the training step gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Chosen:
    """A batch of so many rows.

    Args:
        batch: the rows.
        rows: how many.
        extras: of each row, what there is of ``weights`` of the loss and ``ids``.
        factor: of the loss.
    """

    batch: Any
    rows: int
    extras: dict[str, Tensor]
    factor: float = 1.0


def present(**values: Tensor | None) -> dict[str, Tensor]:
    """Those of `values` that are there."""
    return {name: value for name, value in values.items() if value is not None}
