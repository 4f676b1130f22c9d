"""Random streams that nobody else draws from."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Final

import numpy as np
import torch

States = dict[str, Any]
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
        self._outside: list[States] = []

    def __enter__(self) -> PrivateStreams:
        self._outside.append(current_states(self._device))
        _restore(self.states, self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.states = current_states(self._device)
        _restore(self._outside.pop(), self._device)


@contextmanager
def seeded(seed: int, device: torch.device = _CPU) -> Generator[None]:
    """Inside, random streams are those of `seed`; outside, they are as if nothing was drawn."""
    with PrivateStreams(seed, device):
        yield


def current_states(device: torch.device = _CPU) -> States:
    """Where the global streams stand."""
    found = {"torch": torch.get_rng_state(), "numpy": _plain(np.random), "python": random.getstate()}
    if device.type == "cuda":
        found["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        found["device"] = torch.mps.get_rng_state()
    return found


def _begin(seed: int, device: torch.device) -> States:
    """Made without touching the global streams: torch.manual_seed reseeds every accelerator."""
    numpy = _plain(np.random.RandomState(seed % 2**32))
    found = {
        "torch": torch.Generator().manual_seed(seed).get_state(), "numpy": numpy,
        "python": random.Random(seed).getstate(),
    }  # fmt: skip
    if device.type in {"cuda", "mps"}:
        found["device"] = torch.Generator(device).manual_seed(seed).get_state()
    return found


def _plain(source: Any) -> list[Any]:
    kind, keys, *rest = source.get_state()
    return [kind, torch.tensor(np.asarray(keys, np.int64)), *rest]


def _restore(states: States, device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - what data sets draw from
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["device"])
