"""What a checkpoint holds beside the callback's settings, and how a run goes on from it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed

from litselect.callbacks.counters import Counters
from litselect.callbacks.random_streams import restore_streams, streams_state
from litselect.callbacks.refill_queue import RefillQueue

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
        "verified": callback.verified,
        "training_batch_size": callback.training_batch_size,
        "streams": None if device is None else streams_state(device),
    }


def pick_state(state: dict[str, Any], callback: ExampleSelection, rank: int, world_size: int) -> dict[str, Any]:
    """This rank's part of a checkpoint, less what does not fit the present settings (each with a warning)."""
    saved, own = state["selector"], type(callback.selector).__name__
    ranks = state["ranks"]
    known = rank < len(ranks)
    picked = dict(ranks[rank if known else 0])
    if len(ranks) != world_size:
        warnings.warn(
            f"The checkpoint was made by {len(ranks)} processes, but {world_size} go on from it. Selection continues "
            "with the state of the process of the same rank (the history of rank 0 where there was none); random "
            "streams start afresh, and rows that waited in the refill queues of ranks that are gone are dropped.",
            stacklevel=2,
        )
        picked["streams"] = None
    if not known:
        picked["counters"], picked["queue"] = Counters().state_dict(), RefillQueue().state_dict()
    if callback.across_ranks:  # all ranks draw the same
        picked["selector"] = ranks[0]["selector"]
    elif not known or (rank and state["across_ranks"]):  # every rank draws for itself
        picked["selector"] = _without_stream(picked["selector"])
    if saved != own:
        warnings.warn(
            f"The checkpoint was made with the selector {saved}, but training goes on with {own}: it starts without a "
            "history. Counters and the refill queue continue.",
            stacklevel=2,
        )
        picked["selector"] = None
    return picked


def _without_stream(state: Any) -> Any:
    """The state of a selector, or of one within another, that begins a random stream of its own."""
    if not isinstance(state, dict):
        return state
    items = cast("dict[str, Any]", state).items()
    return {name: _without_stream(value) for name, value in items if name != "generator"}


def resume_streams(streams: dict[str, Any], trainer: Trainer, device: torch.device) -> None:
    """Let shuffling, augmentation and dropout go on where the checkpoint left them.

    To be called once the data is set up, which draws from the streams. Where the checkpoint ended an epoch, the
    iterator of the next one has been made too early and is made again.
    """
    fit_loop: Any = trainer.fit_loop
    restore_streams(streams, device)
    epochs, batches = fit_loop.epoch_progress.current, fit_loop.epoch_loop.batch_progress.current
    if epochs.processed == epochs.ready:
        for loader in fit_loop._combined_loader.flattened:
            _set_epoch(loader, epochs.processed)  # workers fetch as soon as there is an iterator
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


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell the samplers of `loader`, as Lightning does once training has started."""
    for sampler in (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
        if callable(set_epoch := getattr(sampler, "set_epoch", None)):
            set_epoch(epoch)
