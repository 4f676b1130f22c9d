"""The global random streams of a run: what shuffling, augmentation and dropout draw from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

Streams = dict[str, Any]
"""Where streams stand, as tensors and numbers that a checkpoint may hold."""


def current_streams(device: torch.device) -> Streams:
    """Where the streams of torch (CPU and `device`), numpy and Python stand."""
    state: Streams = {"torch": torch.get_rng_state(), "numpy": numpy_state(np.random), "python": random.getstate()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_streams(state: Streams, device: torch.device) -> None:
    """Put the streams where `state` says; that of `device` only if `state` is of the same kind of device."""
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, position, has_gauss, gauss = state["numpy"]  # numpy takes less, too, and keeps what it had
    keys = keys.cpu().numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss))  # noqa: NPY002 - the user's stream
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"].cpu())


def numpy_state(source: Any) -> list[Any]:
    """The state of `source`, numpy's global stream or a ``RandomState``."""
    kind, keys, *rest = source.get_state()
    return [kind, torch.tensor(np.asarray(keys, np.int64)), *rest]
