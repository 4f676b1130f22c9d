"""The chosen rows of what autograd saved, taken when backward asks for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from litselect.scoring.forward_reuse.plan import Plan
from litselect.scoring.forward_reuse.row_block import RowBlock
from litselect.scoring.forward_reuse.row_layout import RowLayout, take_places


class SharedRows:
    """The rows that several saved tensors have in common: copied for the first, freed after the last."""

    __slots__ = ("left", "taken", "uses")

    def __init__(self, uses: int) -> None:
        self.uses, self.left = uses, 0
        self.taken: Tensor | None = None


class SavedTensor:
    """What the graph holds in place of the chosen rows of a tensor: all of it, until backward has passed.

    Args:
        tensor: N rows.
        layout: where they lie.
        block: how they are copied, where the tensor is dense.
        shared: with other tensors.
    """

    __slots__ = ("block", "layout", "shared", "tensor")

    def __init__(self, tensor: Tensor, layout: RowLayout, block: RowBlock | None, shared: SharedRows | None) -> None:
        self.tensor, self.layout, self.block, self.shared = tensor, layout, block, shared


class SavedRows:
    """Lazy copies of rows.

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
        plan, shares, packed = self._plan, dict[int, SharedRows](), list[Any]()
        for tensor, layout, block, (number, uses) in zip(saved, plan.saved, plan.blocks, plan.shared, strict=True):
            if layout is None:
                packed.append(tensor)
                continue
            if block is not None and block.strides != tensor.stride():  # another memory format than was planned
                block, uses = RowBlock.of(tensor, layout, plan.n, plan.k), 1
            if uses > 1 and number not in shares:
                shares[number] = SharedRows(uses)
            packed.append(SavedTensor(tensor, layout, block, shares[number] if uses > 1 else None))
        return packed

    def unpack(self, packed: Any) -> Tensor:
        """What backward is to get."""
        if type(packed) is not SavedTensor:
            return packed
        block, shared = packed.block, packed.shared
        if block is None:
            return self.rows(packed.tensor, packed.layout)
        with torch.no_grad():
            if shared is None:
                return block.shaped(block.take(packed.tensor, self._on(packed.tensor.device)))
            taken = shared.taken
            if taken is None:
                taken, shared.left = block.take(packed.tensor, self._on(packed.tensor.device)), shared.uses
            shared.left -= 1
            shared.taken = taken if shared.left else None
            return block.shaped(taken)

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

    def _on(self, device: torch.device) -> Tensor:
        return self._rows if self._rows.device == device else self._rows.to(device)
