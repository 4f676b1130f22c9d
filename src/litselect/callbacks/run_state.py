"""What a checkpoint holds beside the callback's settings, and how a run goes on from it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed

from litselect.callbacks.random_streams import restore_streams, streams_state

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from litselect.callbacks.example_selection import ExampleSelection


def gather_ranks(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all ranks, in order. A collective: Lightning asks every rank for its state, and saves one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, own)
    return cast("list[dict[str, Any]]", states)


def own_state(callback: ExampleSelection, device: torch.device | None) -> dict[str, Any]:
    """All that changes while this rank trains."""
    return {
        "counters": callback.counters.state_dict(),
        "selector": callback.selector.state_dict(),
        "queue": callback.queue.state_dict(),
        "skipped": callback.skipped,
        "streams": None if device is None else streams_state(device),
    }


def pick_state(state: dict[str, Any], callback: ExampleSelection, rank: int, world_size: int) -> dict[str, Any]:
    """This rank's part of a checkpoint, less what does not fit the present settings (each with a warning)."""
    saved, own = state["selector"], type(callback.selector).__name__
    ranks = state["ranks"]
    picked = dict(ranks[rank] if rank < len(ranks) else ranks[0])
    if len(ranks) != world_size:
        warnings.warn(
            f"The checkpoint was made by {len(ranks)} processes, but {world_size} go on from it. Selection continues "
            "with the state of the process of the same rank (rank 0 where there was none); random streams start "
            "afresh, and rows that waited in other ranks' refill queues are dropped.",
            stacklevel=2,
        )
        picked["streams"] = None
    if saved != own:
        warnings.warn(
            f"The checkpoint was made with the selector {saved}, but training goes on with {own}: it starts without a "
            "history. Counters and the refill queue continue.",
            stacklevel=2,
        )
        picked["selector"] = None
    return picked


def resume_streams(streams: dict[str, Any], trainer: Trainer, device: torch.device) -> None:
    """Let shuffling, augmentation and dropout go on where the checkpoint left them.

    To be called once the data is set up, which draws from the streams. Where the checkpoint ended an epoch, the
    iterator of the next one has been made too early and is made again.
    """
    fit_loop: Any = trainer.fit_loop
    restore_streams(streams, device)
    epochs, batches = fit_loop.epoch_progress.current, fit_loop.epoch_loop.batch_progress.current
    if epochs.processed == epochs.ready:
        iter(fit_loop._data_fetcher)
    elif 0 < batches.ready < trainer.num_training_batches and not all(
        hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        for loader in fit_loop._combined_loader.flattened
    ):
        warnings.warn(
            f"Training goes on within an epoch, after batch {batches.ready} of {trainer.num_training_batches}, but the "
            "DataLoader can't be set to that place: it delivers the epoch from its beginning, so the batches will not "
            "be those of the uninterrupted run. Save checkpoints at the end of epochs, or use a loader with "
            "`state_dict` and `load_state_dict`, such as torchdata's StatefulDataLoader.",
            stacklevel=2,
        )
