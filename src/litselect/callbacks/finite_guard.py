"""NaN and inf are noticed, without making the host wait for the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class FiniteGuard:
    """Raises when something it looked at was not finite.

    On the CPU at once. On CUDA the count is copied without blocking, and `raise_if_bad`, called before the optimizer
    steps, reads it.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Tensor, int, str, Any]] = []

    def look(self, values: Tensor, what: str) -> None:
        """Look at `values`, which the message will call `what`.

        Raises:
            FloatingPointError: if they are on the CPU and not all finite.
        """
        if values.device.type == "cpu" and math.isfinite(values.sum().item()):
            return  # NaN and inf stay in a sum
        bad = values.numel() - values.isfinite().sum()
        if not bad.is_cuda:
            _raise(int(bad), values.numel(), what)
            return
        count = torch.empty(bad.shape, dtype=bad.dtype, pin_memory=True).copy_(bad, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((count, values.numel(), what, event))

    def raise_if_bad(self) -> None:
        """Raise for anything that was looked at since the last call.

        Raises:
            FloatingPointError: with the number of rows and the remedies.
        """
        pending, self._pending = self._pending, []
        for count, n, what, event in pending:
            event.synchronize()
            _raise(int(count), n, what)


def _raise(bad: int, n: int, what: str) -> None:
    if bad:
        raise FloatingPointError(
            f"Selection needs finite losses, but {bad} of {n} values of {what} are NaN or inf. Look for broken "
            'examples or a diverged model, or decide with nonfinite="drop" (never train such rows) or '
            'nonfinite="train" (always train them).'
        )
