"""The peak of memory during a stretch of a training."""

from typing import Protocol

import torch

from experiments.look_aheads.live_memory import LiveMemory


class Peak(Protocol):
    """Watches memory between `begin` and `end`."""

    def begin(self) -> None:
        """From here on."""
        ...

    def end(self) -> int:
        """The bytes of tensors at the peak, beyond those at the beginning."""
        ...


def watch(device: str) -> Peak:
    """For a device."""
    return _Cuda() if device == "cuda" else _Counted()


class _Counted:
    """Counts the storages that operators make: slows them down, so nothing is timed meanwhile."""

    def __init__(self) -> None:
        self._memory = LiveMemory()

    def begin(self) -> None:
        self._memory = LiveMemory()
        self._memory.__enter__()

    def end(self) -> int:
        self._memory.__exit__(None, None, None)
        return self._memory.peak


class _Cuda:
    """Asks the allocator."""

    def __init__(self) -> None:
        self._before = 0

    def begin(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    def end(self) -> int:
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - self._before
