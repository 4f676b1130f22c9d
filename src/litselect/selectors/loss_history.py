"""The distribution of the most recent losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class LossHistory:
    """A ring of the last `size` losses, kept on the device of the losses.

    A batch larger than the ring widens it, so that no row of a batch is preferred for its position.

    Args:
        size: how many losses are remembered, >= 1.

    Raises:
        ValueError: if `size` < 1.

    >>> history = LossHistory(4)
    >>> history.append(torch.tensor([1.0, 2.0, 2.0, 3.0]))
    >>> history.percentile(torch.tensor([0.0, 2.0, 9.0]))
    tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """

    def __init__(self, size: int) -> None:
        if not isinstance(size, int) or size < 1:  # pyright: ignore[reportUnnecessaryIsInstance] - users
            raise ValueError(f"The loss history must hold at least one loss, but got history={size!r}. Use 1024.")
        self._ring = torch.zeros(size)  # not empty: it is saved whole
        self._next = 0
        self._filled = 0

    def append(self, losses: Float[Tensor, " batch"]) -> None:
        """Remember `losses`, forgetting the oldest. O(N), no host sync."""
        losses = losses.detach().float()
        n, size = losses.numel(), self._ring.numel()
        if n > size:
            self._ring, self._next, self._filled = losses.clone(), 0, n
            return
        self._ring = self._ring.to(losses.device)
        first = min(n, size - self._next)
        self._ring[self._next : self._next + first] = losses[:first]
        if first < n:
            self._ring[: n - first] = losses[first:]
        self._next = (self._next + n) % size
        self._filled = min(size, self._filled + n)

    def percentile(self, losses: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The share of the remembered losses below each loss, equal ones counted half.

        Returns:
            ``[N]`` in [0, 1], float64 (float32 where the device has no float64).
        """
        ranked = self._ring[: self._filled].sort().values
        losses = losses.detach().float()
        below = torch.searchsorted(ranked, losses)
        not_above = torch.searchsorted(ranked, losses, right=True)
        dtype = torch.float32 if losses.device.type == "mps" else torch.float64
        return (below + not_above).to(dtype) / (2 * self._filled)

    def state_dict(self) -> dict[str, Any]:
        """The ring and its position."""
        return {"ring": self._ring.clone(), "next": self._next, "filled": self._filled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._ring = state["ring"].to(self._ring.device, copy=True)
        self._next, self._filled = state["next"], state["filled"]
