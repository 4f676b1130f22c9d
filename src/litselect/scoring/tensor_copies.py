"""What tensors hold, kept while a module runs."""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor

_SMALL: Final = 2**16


class TensorCopies:
    """Copies of tensors that a forward pass may write to, in memory that is used again by the next pass.

    Cost: one copy of each tensor a pass, and one back of those that were, or may have been, written to.
    """

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}  # by id: the tensor, which keeps the id alive, and a copy
        self._saved: list[tuple[Tensor, Tensor, int, bool]] = []  # with its version, and whether it has a graph
        self.always: set[int] = set()  # ids of those that are written to though their version does not tell

    def save(self, tensors: list[Tensor]) -> None:
        """Copy `tensors`; copies of others are given up."""
        copies: dict[int, tuple[Tensor, Tensor]] = {}
        for tensor in tensors:
            if id(tensor) in copies or tensor.is_inference():  # nothing may change those in place
                continue
            old = self._copies.get(id(tensor))
            fits = old is not None and old[0] is tensor and _alike(old[1], tensor)
            copies[id(tensor)] = (tensor, old[1] if old is not None and fits else tensor.detach().clone())
        self._copies = copies
        pairs = list(copies.values())
        if pairs:  # all at once: one by one takes longer than the copying
            with torch.no_grad():
                cast("Any", torch)._foreach_copy_([copy for _, copy in pairs], [tensor for tensor, _ in pairs])
        self._saved = [(tensor, copy, tensor._version, tensor.requires_grad) for tensor, copy in pairs]

    def differs(self, tensor: Tensor) -> bool:
        """Whether `tensor` holds something else than its copy. The host waits for the device."""
        return not torch.equal(tensor, self._copies[id(tensor)][1])

    def restore(self) -> None:
        """Put back what `save` copied; again, if it was written to again."""
        for tensor, copy, version, graph in self._saved:
            if tensor._version != version or id(tensor) in self.always:
                with torch.no_grad():
                    tensor.copy_(copy)
            elif tensor.numel() <= _SMALL:
                tensor.data.copy_(copy)  # batch_norm, and whoever writes to `.data`, makes no new version
            if tensor.requires_grad and not graph:
                tensor.detach_()  # the loss was added to it


def _alike(copy: Tensor, tensor: Tensor) -> bool:
    return copy.shape == tensor.shape and copy.dtype == tensor.dtype and copy.device == tensor.device
