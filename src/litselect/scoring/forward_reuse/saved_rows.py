"""The chosen rows of what autograd saved, taken when backward asks for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from litselect.scoring.forward_reuse.plan import Plan
from litselect.scoring.forward_reuse.row_layout import RowLayout, take_places


class SavedRows:
    """Lazy slices. A tensor that was saved several times is sliced once, and its slice freed after the last use.

    Args:
        plan: where the rows lie.
        saved: what autograd saved, N rows.
        rows: ``[k]``.
    """

    def __init__(self, plan: Plan, saved: list[Tensor], rows: Tensor) -> None:
        self._plan, self._tensors, self._rows = plan, saved, rows
        self._slices: dict[int, tuple[Tensor, int]] = {}
        self._places: dict[tuple[int, int], Tensor] = {}

    def unpack(self, packed: Any) -> Tensor:
        """What autograd saved as number `packed`, less the rows that were not chosen."""
        if type(packed) is not int:
            return packed
        layout = self._plan.saved[packed]
        if layout is None:
            return self._tensors[packed]
        number, uses = self._plan.shared[packed]
        if uses == 1:
            return self.rows(self._tensors[packed], layout)
        taken, left = self._slices.pop(number, (None, uses))
        if taken is None:
            taken = self.rows(self._tensors[packed], layout)
        if left > 1:
            self._slices[number] = taken, left - 1
        return taken

    def rows(self, tensor: Tensor, layout: RowLayout | None) -> Tensor:
        """The chosen rows of `tensor`."""
        if layout is None:
            return tensor
        with torch.no_grad():
            return take_places(tensor, layout.dim, self._at(layout, tensor.device))

    def _at(self, layout: RowLayout, device: torch.device) -> Tensor:
        key = layout.outer, layout.inner
        if key not in self._places:
            self._places[key] = layout.places(self._rows, self._plan.n)
        places = self._places[key]
        return places if places.device == device else places.to(device)
