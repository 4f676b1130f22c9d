"""Random streams that nobody else draws from."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np
import torch

States = dict[str, Any]


class PrivateStreams(AbstractContextManager["PrivateStreams"]):
    """Inside, the global streams of torch (CPU), numpy and Python are these; outside, they are as if nothing was drawn.

    Args:
        seed: where they begin.
    """

    def __init__(self, seed: int) -> None:
        outside = current_states()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the global stream is what data sets draw from
        random.seed(seed)
        self.states = current_states()
        _restore(outside)
        self._outside: list[States] = []

    def __enter__(self) -> PrivateStreams:
        self._outside.append(current_states())
        _restore(self.states)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.states = current_states()
        _restore(self._outside.pop())


def current_states() -> States:
    """Where the global streams stand."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - see above
    numpy = [kind, torch.tensor(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss]
    return {"torch": torch.get_rng_state(), "numpy": numpy, "python": random.getstate()}


def _restore(states: States) -> None:
    torch.set_rng_state(states["torch"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002 - see above
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
