"""Seconds per stage of a batch, without waiting for the device."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch

from litselect.callbacks.counters import Counters


class Stopwatch:
    """Adds the time between laps to a counter.

    On CUDA a lap is an event in the stream: its time is added once the device has passed it, so that measuring stops
    nobody. Elsewhere it is the host's clock.

    Args:
        counters: where the seconds go.
        device: where the work runs.
    """

    def __init__(self, counters: Counters, device: torch.device) -> None:
        self._counters = counters
        self._cuda = device.type == "cuda"
        self._last: Any = None
        self._pending: deque[tuple[str, Any, Any]] = deque()

    def start(self) -> None:
        """Begin the first lap."""
        self._last = self._now()

    def lap(self, counter: str) -> None:
        """End a lap, add it to `counter`, begin the next."""
        now = self._now()
        if self._cuda:
            self._pending.append((counter, self._last, now))
            self._collect()
        else:
            self._add(counter, now - self._last)
        self._last = now

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _collect(self) -> None:
        while self._pending and self._pending[0][2].query():
            counter, start, end = self._pending.popleft()
            self._add(counter, start.elapsed_time(end) / 1000)

    def _add(self, counter: str, seconds: float) -> None:
        setattr(self._counters, counter, getattr(self._counters, counter) + seconds)
