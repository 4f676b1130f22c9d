"""The seam between a ledger and the loaders of a Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from litselect.callbacks.loop_patch import restore

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


class LoaderWatch:
    """Puts another loader in the place of each training loader, for the fit loop alone, until removed.

    Validation, and whoever reads ``trainer.train_dataloader``, get the loader as it is.

    Args:
        trainer: the Trainer, before it sets up its data.
        meet: gets a training loader, and whether others came before it, answers with the one that the fit loop is to
            read.
        begin: called when an epoch begins or goes on, with the number of the batch that comes first.
    """

    def __init__(self, trainer: Trainer, meet: Callable[[Any, bool], Any], begin: Callable[[int], None]) -> None:
        strategy, loop = cast("Any", trainer.strategy), cast("Any", trainer.fit_loop)
        process, set_up, run_start = strategy.process_dataloader, loop.setup_data, loop.epoch_loop.on_run_start
        met: list[tuple[Any, Any]] = []

        def process_then_meet(loader: Any) -> Any:
            loader = process(loader)
            if not trainer.training:
                return loader
            met.append((loader, meet(loader, bool(met))))
            return met[-1][1]

        def set_up_then_show(*args: Any) -> None:
            set_up(*args)
            for loader, ours in met:
                if loop._combined_loader is not None and loop._combined_loader._iterables is ours:
                    loop._combined_loader._iterables = loader
            met.clear()

        def run_start_then_note(*args: Any) -> None:
            run_start(*args)
            begin(loop.epoch_loop.batch_progress.current.ready)

        self._patches = [
            (strategy, "process_dataloader", process_then_meet),
            (loop, "setup_data", set_up_then_show),
            (loop.epoch_loop, "on_run_start", run_start_then_note),
        ]
        for owner, name, function in self._patches:
            setattr(owner, name, function)

    def remove(self) -> None:
        """Put everything back. Harmless when called again."""
        while self._patches:
            restore(*self._patches.pop())
