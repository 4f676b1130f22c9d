"""The global random streams of a run that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litselect.callbacks.check_state import REMEDY
from litselect.scoring.random_streams import set_streams

if TYPE_CHECKING:
    import torch


def restore_streams(state: dict[str, Any], device: torch.device) -> None:
    """Put the streams where `state`, of a checkpoint, says.

    Raises:
        ValueError: if it isn't what `current_streams` makes.
    """
    try:
        set_streams(state, device)
    except Exception as error:
        raise ValueError(
            "The state of random streams must hold those of torch, numpy and Python, but got one that they don't "
            f"take ({type(error).__name__}: {error}). {REMEDY}"
        ) from error
