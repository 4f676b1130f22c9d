"""How Lightning's loops and loaders go on from a checkpoint.

Written against private attributes of the loops, which are the same from Lightning 2.5.3 to 2.6: the tests of resume run
on both ends.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from litselect.callbacks.random_streams import restore_streams
from litselect.callbacks.rank_buffers import restore_buffers
from litselect.callbacks.run_state import load_selector

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection
    from litselect.callbacks.loop_patch import LoopPatch


def around_fit_loop(trainer: Trainer, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call `before` when the fit loop runs next, and `after` whichever way it is left."""
    loop: Any = trainer.fit_loop
    run = loop.run

    def run_between() -> None:
        loop.__dict__.pop("run", None)  # gone already where a broken fit left its own around this one
        before()
        try:
            run()
        finally:
            after()

    loop.run = run_between


def warn_of_fresh_start(callback: ExampleSelection, trainer: Trainer) -> None:
    """Say so where a checkpoint knows nothing of selection."""
    if trainer.ckpt_path is not None:
        warnings.warn(
            f"The checkpoint {trainer.ckpt_path} was made without {type(callback).__name__}: weights and optimizer go "
            "on from it, selection starts afresh.",
            stacklevel=2,
        )


def settle_progress(trainer: Trainer, module: LightningModule, skipped: bool) -> None:
    """Let a run that was saved at the end of an epoch go on with the next one, with the right counts.

    Two kinds of checkpoints Lightning takes for others. One that was made at the last batch, before the epoch ended,
    leaves its own counts an epoch behind: resumed in turn, such a run trains an epoch twice. And with ``max_steps``,
    one that was made at the end of an epoch goes on with one more batch in it. Here both become what they should be:
    the end of the epoch. To be called before the loop runs.

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


def resume_run(
    callback: ExampleSelection, state: dict[str, Any], trainer: Trainer, module: LightningModule, patch: LoopPatch
) -> None:
    """Let shuffling, augmentation, dropout and scoring go on where the checkpoint left them.

    To be called once the data is set up and training has started, which draw from the streams. Where the checkpoint
    ended an epoch, the iterator of the next one has been made too early, and is made again when the epoch begins. So
    is the selector, which may have been asked for the batches that workers are sent for in advance.
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
            if state["selector"] is not None:
                load_selector(callback.selector, state["selector"])
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
