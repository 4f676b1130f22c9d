"""The most recent losses of every class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class ClassLosses:
    """A ring of the last `size` losses for each class, on the device of the losses; it grows with the classes.

    Args:
        size: how many losses of a class are remembered.

    >>> history = ClassLosses(2)
    >>> history.append(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 0, 2, 0]))
    >>> history.losses
    tensor([[4., 2.],
            [inf, inf],
            [3., inf]])
    """

    def __init__(self, size: int) -> None:
        self._next = torch.zeros(0, dtype=torch.int64)
        self.losses = torch.zeros(0, size)
        """``[C, size]``, inf where nothing is remembered yet."""

    def append(self, losses: Float[Tensor, " batch"], classes: Int[Tensor, " batch"]) -> None:
        """Remember `losses`, forgetting the oldest of each class. O(N log N), one host sync."""
        if len(losses) == 0:
            return
        losses, size = losses.detach().float(), self.losses.shape[1]
        self._next, self.losses = self._next.to(losses.device), self.losses.to(losses.device)
        if (new := int(classes.max()) + 1 - len(self._next)) > 0:
            self._next = torch.cat([self._next, self._next.new_zeros(new)])
            self.losses = torch.cat([self.losses, self.losses.new_full((new, size), torch.inf)])
        classes, order = classes.sort(stable=True)
        first, end = torch.searchsorted(classes, classes), torch.searchsorted(classes, classes, right=True)
        place = torch.arange(len(classes), device=classes.device)
        slots = (self._next[classes] + place - first) % size
        latest = place >= end - size  # of more than fit, the last: no slot is written twice
        self.losses[classes[latest], slots[latest]] = losses[order][latest]
        self._next.index_add_(0, classes, torch.ones_like(classes))

    def state_dict(self) -> dict[str, Any]:
        """The rings and their positions."""
        return {"losses": self.losses.clone(), "next": self._next.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.losses, self._next = state["losses"].clone(), state["next"].clone()
