"""What a checkpoint holds beside the callback's settings, and how a run goes on from it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed

from litselect.callbacks.check_state import REMEDY, check_state
from litselect.callbacks.counters import Counters
from litselect.callbacks.random_streams import restore_streams, streams_state
from litselect.callbacks.rank_buffers import own_buffers, restore_buffers
from litselect.callbacks.refill_queue import RefillQueue
from litselect.selectors import Selector

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection
    from litselect.callbacks.loop_patch import LoopPatch


def selector_name(selector: Selector) -> str:
    """The class of `selector`, with those of the selectors inside it."""
    inner = [selector_name(value) for value in vars(selector).values() if isinstance(value, Selector)]
    return type(selector).__name__ + (f"({', '.join(inner)})" if inner else "")


def gather_ranks(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all ranks, in order. A collective: Lightning asks every rank for its state, and saves one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, own)
    return cast("list[dict[str, Any]]", states)


def own_state(
    callback: ExampleSelection, module: LightningModule | None, device: torch.device | None
) -> dict[str, Any]:
    """All that changes while this rank trains: `module`, on `device`, once it does."""
    return {
        "counters": callback.counters.state_dict(),
        "selector": callback.selector.state_dict(),
        "queue": callback.queue.state_dict(),
        "skipped": callback.skipped,
        "checks": callback.checks,
        "verified": callback.verified,
        "training_batch_size": callback.training_batch_size,
        "streams": None if device is None else streams_state(device),
        "loss_ranks": None if callback.memory is None else callback.memory.ranks.state_dict(),
        "buffers": {} if module is None else own_buffers(module),
    }


def pick_state(state: dict[str, Any], callback: ExampleSelection, rank: int, world_size: int) -> dict[str, Any]:
    """This rank's part of a checkpoint, less what does not fit the present settings (each with a warning).

    Raises:
        ValueError: if it isn't what `ExampleSelection.state_dict` makes. All ranks' parts are looked at, so that either
            every rank raises or none does.
    """
    _check(state, callback)
    saved, own = state["selector"], selector_name(callback.selector)
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


def _check(state: dict[str, Any], callback: ExampleSelection) -> None:
    check_state(
        f"{type(callback).__name__}", state, {"selector": "", "across_ranks": False, "ranks": [], "memory": None}
    )
    if not state["ranks"]:
        raise ValueError(f"A checkpoint must hold the state of at least one rank, but got none. {REMEDY}")
    for rank, own in enumerate(state["ranks"]):
        check_state(f"rank {rank}", own, own_state(callback, None, None))
        Counters().load_state_dict(own["counters"])
        RefillQueue().load_state_dict(own["queue"])
        check_state("buffers", own["buffers"], dict.fromkeys(own["buffers"], torch.empty(0)))


def load_selector(selector: Selector, state: dict[str, Any]) -> None:
    """Let `selector` go on from the state of one of its class.

    Raises:
        ValueError: if it can't.
    """
    try:
        selector.load_state_dict(state)
    except Exception as error:
        raise ValueError(
            f"The state of a selector must be one that {selector!r} can go on from, but got one with "
            f"{', '.join(map(str, state)) or 'nothing'} ({type(error).__name__}: {error}). {REMEDY}"
        ) from error


def _without_stream(state: Any) -> Any:
    """The state of a selector, or of one within another, that begins a random stream of its own."""
    if not isinstance(state, dict):
        return state
    items = cast("dict[str, Any]", state).items()
    return {name: _without_stream(value) for name, value in items if name != "generator"}


def settle_progress(trainer: Trainer, module: LightningModule, skipped: bool) -> None:
    """Let a run that was saved at the end of an epoch go on with the next one, with the right counts.

    Two kinds of checkpoints Lightning takes for others. One that was made at the last batch, before the
    epoch ended, leaves its own counts an epoch behind: resumed in turn, such a run trains an epoch twice. And with
    ``max_steps``, it goes on with one more batch in the old epoch. Here both become what they should be: the end of the
    epoch. To be called before the loop runs.

    Args:
        trainer: with the loops as they were saved.
        module: whose hooks may be left out.
        skipped: whether the last batch made no step.
    """
    fit_loop: Any = trainer.fit_loop
    epochs, batches = fit_loop.epoch_progress, fit_loop.epoch_loop.batch_progress
    cut = epochs.current.processed < epochs.current.ready and batches.is_last_batch
    cut = cut and batches.current.completed < batches.current.processed == batches.current.ready
    if cut:
        batches.increment_completed()
        epochs.increment_processed()
        fit_loop.epoch_loop._batches_that_stepped += not skipped
    if epochs.current.processed == epochs.current.ready:
        fit_loop._restarting = False  # the property's setter knows better
        fit_loop.epoch_loop.restarting = False
    if not cut:
        return
    left_out = ["validation"] * trainer.enable_validation
    left_out += ["on_train_epoch_end"] * _is_users(module.on_train_epoch_end)
    left_out += ["the schedule by epochs"] * any(config.interval == "epoch" for config in trainer.lr_scheduler_configs)
    if left_out:
        warnings.warn(
            "The checkpoint was made at the last batch of an epoch, before the epoch ended. Lightning goes on with the "
            f"next epoch and leaves out {', '.join(left_out)}, so the run may end differently from an uninterrupted "
            "one. Save checkpoints at the end of epochs: ModelCheckpoint(save_on_train_epoch_end=True).",
            stacklevel=2,
        )


def _place_loaders(fit_loop: Any, places: list[dict[str, Any]]) -> bool:
    """Set the loaders to the end of their epoch; answer whether they have begun the next one of themselves.

    If not, they have nothing more to give, and a new iterator begins the next epoch.
    """
    if not places:
        return False
    if fit_loop._combined_loader_states_to_load:  # Lightning sets loaders only within an epoch
        fit_loop._combined_loader._load_state_dicts(places)
        iter(fit_loop._data_fetcher)
    return next(fit_loop._data_fetcher, None) is not None


def _is_users(hook: Any) -> bool:
    """Whether a hook was written by the user, in place of Lightning's empty one."""
    return hook.__module__.partition(".")[0] not in ("pytorch_lightning", "lightning")


def resume_run(state: dict[str, Any], trainer: Trainer, module: LightningModule, patch: LoopPatch) -> None:
    """Let shuffling, augmentation, dropout and scoring go on where the checkpoint left them.

    To be called once the data is set up and training has started, which draw from the streams. Where the checkpoint
    ended an epoch, the iterator of the next one has been made too early, and is made again when the epoch begins.
    """
    fit_loop: Any = trainer.fit_loop
    epochs, batches = fit_loop.epoch_progress.current, fit_loop.epoch_loop.batch_progress.current
    loaders: list[Any] = fit_loop._combined_loader.flattened
    ended = epochs.processed == epochs.ready
    ahead = ended and _place_loaders(fit_loop, state["loaders"])
    restore_buffers(module, state["buffers"])
    restore_streams(state["streams"], module.device)
    if ended:

        def begin_epoch() -> None:
            if ahead:
                fit_loop._combined_loader._load_state_dicts(state["loaders"])
            iter(fit_loop._data_fetcher)

        patch.once(fit_loop.epoch_loop, "on_run_start", begin_epoch)
    elif 0 < batches.ready < trainer.num_training_batches and not all(
        hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict") for loader in loaders
    ):
        warnings.warn(
            f"Training goes on within an epoch, after batch {batches.ready} of {trainer.num_training_batches}, but the "
            "DataLoader can't be set to that place: it delivers the epoch from its beginning, so the batches will not "
            "be those of the uninterrupted run. Save checkpoints at the end of epochs, or use a loader with "
            "`state_dict` and `load_state_dict`, such as torchdata's StatefulDataLoader.",
            stacklevel=2,
        )
