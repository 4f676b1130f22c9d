"""What time is, by device."""

from collections.abc import Callable
from time import perf_counter, thread_time

import torch

Clock = Callable[[], float]
"""Seconds since some moment."""


def clock(device: str) -> Clock:
    """Processor seconds of this thread, which others on the machine disturb least; on CUDA wall clock, synchronised."""
    return _synchronised if device == "cuda" else thread_time


def _synchronised() -> float:
    torch.cuda.synchronize()
    return perf_counter()
