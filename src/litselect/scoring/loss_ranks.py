"""Where a loss stands among the current ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class LossRanks:
    """A ring of the last `size` losses, each standing for as many examples as its weight says.

    The losses of trained rows are a biased sample: rows of high loss are chosen more often. Weighing each by the
    inverse of its inclusion probability makes the distribution that of all candidates.

    Args:
        size: how many losses are remembered; a larger batch widens the ring.

    >>> ranks = LossRanks(4)
    >>> ranks.append(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0]))
    >>> ranks.percentile(torch.tensor([1.0, 2.0, 3.0]))
    tensor([0.3750, 0.7500, 0.8750])
    """

    def __init__(self, size: int = 1024) -> None:
        self._losses = torch.zeros(size)
        self._weights = torch.zeros(size)  # nothing yet
        self._next = 0

    def append(self, losses: Float[Tensor, " batch"], weights: Float[Tensor, " batch"] | None = None) -> None:
        """Remember `losses`, forgetting the oldest. No host sync."""
        losses = losses.detach().float()
        weights = torch.ones_like(losses) if weights is None else weights.to(losses)
        n, size = losses.numel(), self._losses.numel()
        if n > size:
            self._losses, self._weights, self._next = losses.clone(), weights.clone(), 0
            return
        self._losses, self._weights = self._losses.to(losses.device), self._weights.to(losses.device)
        first = min(n, size - self._next)
        for ring, values in ((self._losses, losses), (self._weights, weights)):
            ring[self._next : self._next + first] = values[:first]
            if first < n:
                ring[: n - first] = values[first:]
        self._next = (self._next + n) % size

    def percentile(self, losses: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The share of the remembered losses below each loss, equal ones counted half. ``[N]`` in [0, 1]."""
        ranked, order = self._losses.sort()
        mass = torch.nn.functional.pad(self._weights[order].cumsum(0), (1, 0))
        losses = losses.detach().float()
        below = mass[torch.searchsorted(ranked, losses)]
        not_above = mass[torch.searchsorted(ranked, losses, right=True)]
        return ((below + not_above) / (2 * mass[-1])).clamp(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """The ring and its position."""
        return {"losses": self._losses.clone(), "weights": self._weights.clone(), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        device = self._losses.device
        self._losses = state["losses"].to(device, copy=True)
        self._weights = state["weights"].to(device, copy=True)
        self._next = state["next"]
