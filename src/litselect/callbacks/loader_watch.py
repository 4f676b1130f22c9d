"""The seam between a ledger and the loaders of a Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch.utils._pytree import tree_unflatten

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
        listens: whether anybody wants to know, now.
    """

    def __init__(
        self,
        trainer: Trainer,
        meet: Callable[[Any, bool], Any],
        begin: Callable[[int], None],
        listens: Callable[[], bool],
    ) -> None:
        strategy, loop = cast("Any", trainer.strategy), cast("Any", trainer.fit_loop)
        process, set_up, run_start = strategy.process_dataloader, loop.setup_data, loop.epoch_loop.on_run_start
        met: list[tuple[Any, Any]] = []

        def process_then_meet(loader: Any) -> Any:
            loader = process(loader)
            if not trainer.training:
                return loader
            self._passed = not listens()
            if self._passed:
                return loader
            met.append((loader, meet(loader, bool(met))))
            return met[-1][1]

        def set_up_then_show(*args: Any) -> None:
            set_up(*args)
            combined, theirs = loop._combined_loader, {id(ours): loader for loader, ours in met}
            met.clear()
            if combined is not None and theirs:
                loaders = [theirs.get(id(loader), loader) for loader in combined.flattened]
                combined._iterables = tree_unflatten(loaders, combined._spec)
                self._read = combined, loaders

        def run_start_then_note(*args: Any) -> None:
            run_start(*args)
            begin(loop.epoch_loop.batch_progress.current.ready)

        self._loop, self._passed = loop, False  # whether the newest loader was let pass
        self._read: tuple[Any, list[Any]] | None = None  # what the loop reads, and the loaders that were put into it
        self._patches = [
            (strategy, "process_dataloader", process_then_meet),
            (loop, "setup_data", set_up_then_show),
            (loop.epoch_loop, "on_run_start", run_start_then_note),
        ]
        for owner, name, function in self._patches:
            setattr(owner, name, function)

    def expect(self) -> None:
        """Have the loader made again, if the newest one was not met."""
        if self._passed:
            self._loop._combined_loader = None

    def remove(self) -> None:
        """Put everything back. Harmless when called again."""
        while self._patches:
            restore(*self._patches.pop())
        if self._read is not None:  # it may be the user's own, which lives on
            combined, combined.flattened = self._read
            self._read = None
