"""The chosen rows of what autograd saved, taken when backward asks for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from litselect.scoring.forward_reuse.plan import Plan
from litselect.scoring.forward_reuse.row_layout import RowLayout, take_places


class SavedTensor:
    """What the graph holds in place of the chosen rows of a tensor: all of it, until backward has passed.

    Args:
        tensor: N rows.
        layout: where they lie.
        uses: how often the graph holds it.
    """

    __slots__ = ("layout", "left", "rows", "tensor", "uses")

    def __init__(self, tensor: Tensor, layout: RowLayout, uses: int) -> None:
        self.tensor, self.layout, self.uses, self.left = tensor, layout, uses, uses
        self.rows: Tensor | None = None


class SavedRows:
    """Lazy slices. A tensor that was saved several times is sliced once, and its slice freed after the last use.

    The graph alone holds the tensors, so that each is freed once backward has passed it, as in plain training.

    Args:
        plan: where the rows lie.
        rows: ``[k]``.
    """

    def __init__(self, plan: Plan, rows: Tensor) -> None:
        self._plan, self._rows = plan, rows
        self._places: dict[tuple[int, int], Tensor] = {(1, 1): rows}

    def pack(self, saved: list[Tensor]) -> list[Any]:
        """What the graph is to hold in place of `saved`."""
        packed: list[Any] = []
        for i, (tensor, layout, (number, uses)) in enumerate(
            zip(saved, self._plan.saved, self._plan.shared, strict=True)
        ):
            if layout is None:
                packed.append(tensor)
            elif number < i:
                packed.append(packed[number])
            else:
                packed.append(SavedTensor(tensor, layout, uses))
        return packed

    def unpack(self, packed: Any) -> Tensor:
        """What backward is to get."""
        if type(packed) is not SavedTensor:
            return packed
        if packed.uses == 1:
            return self.rows(packed.tensor, packed.layout)
        taken, packed.rows = packed.rows, None
        if taken is None:
            taken, packed.left = self.rows(packed.tensor, packed.layout), packed.uses
        packed.left -= 1
        if packed.left:
            packed.rows = taken
        return taken

    def rows(self, tensor: Tensor, layout: RowLayout | None) -> Tensor:
        """The chosen rows of `tensor`."""
        if layout is None:
            return tensor
        key = layout.outer, layout.inner
        places = self._places.get(key)
        if places is None:
            places = self._places[key] = layout.places(self._rows, self._plan.n)
        with torch.no_grad():
            return take_places(
                tensor, layout.dim, places if places.device == tensor.device else places.to(tensor.device)
            )
