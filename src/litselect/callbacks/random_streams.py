"""The global random streams of a run: what shuffling, augmentation and dropout draw from."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch

from litselect.callbacks.check_state import REMEDY


def streams_state(device: torch.device) -> dict[str, Any]:
    """The states of torch (CPU and `device`), numpy and Python, as tensors and numbers."""
    kind, keys, position, has_gauss, gauss = cast("Any", np.random.get_state())  # noqa: NPY002 - the user's stream
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.tensor(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_streams(state: dict[str, Any], device: torch.device) -> None:
    """Put the streams where `state` says.

    Raises:
        ValueError: if it isn't what `streams_state` makes.
    """
    try:
        _restore(state, device)
    except Exception as error:
        raise ValueError(
            "The state of random streams must hold those of torch, numpy and Python, but got one that they don't "
            f"take ({type(error).__name__}: {error}). {REMEDY}"
        ) from error


def _restore(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002 - the same
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"].cpu())
