"""Random streams that nobody else draws from."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Final

import numpy as np
import torch

from litselect.scoring.random_streams import Streams, current_streams, numpy_state, set_streams

_CPU: Final = torch.device("cpu")


class PrivateStreams(AbstractContextManager["PrivateStreams"]):
    """Inside, the global streams of torch, numpy and Python are these; outside, they are as if nothing was drawn.

    Args:
        seed: where they begin.
        device: whose stream is private, too, beside that of the CPU.

    Attributes:
        states: where they stand, of types that a checkpoint may hold; to be read and set from outside.
    """

    def __init__(self, seed: int, device: torch.device = _CPU) -> None:
        self._device = device
        self.states = _begin(seed, device)
        self._outside: list[Streams] = []

    def __enter__(self) -> PrivateStreams:
        self._outside.append(current_streams(self._device))
        set_streams(self.states, self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.states = current_streams(self._device)
        set_streams(self._outside.pop(), self._device)


@contextmanager
def seeded(seed: int, device: torch.device = _CPU) -> Generator[None]:
    """Inside, random streams are those of `seed`; outside, they are as if nothing was drawn."""
    with PrivateStreams(seed, device):
        yield


def _begin(seed: int, device: torch.device) -> Streams:
    """Made without touching the global streams: torch.manual_seed reseeds every accelerator."""
    numpy = numpy_state(np.random.RandomState(seed % 2**32))
    found = {
        "torch": torch.Generator().manual_seed(seed).get_state(), "numpy": numpy,
        "python": random.Random(seed).getstate(),
    }  # fmt: skip
    if device.type in {"cuda", "mps"}:
        found[device.type] = torch.Generator(device).manual_seed(seed).get_state()
    return found
