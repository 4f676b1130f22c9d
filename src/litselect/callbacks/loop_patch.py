"""The seam between selection and Lightning's loops.

Attributes of the *instances* of strategy and loops are replaced, never the module: Lightning looks them up anew on
each call, so the user's module stays picklable and the decision exists before the loop asks whether to step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

Choose = Callable[[Any, int], bool]
"""Called with the batch and its index once it is on its device; answers whether a step is made."""

Train = Callable[[Callable[..., Any], tuple[Any, ...]], Any]
"""Called with the strategy's training step and its arguments; runs it on the chosen rows."""

Columns = Callable[[str], dict[str, Any]]
"""Called with ``"step"`` or ``"epoch"`` when a row is written: what stands in it beside what the module logs."""


class LoopPatch:
    """Puts `choose` before and `train` around the training step of one Trainer, until removed.

    Args:
        trainer: whose strategy and loops.
        choose: see `Choose`. Where it answers False the batch is a true skip: no step, no closure, no scheduler, no
            row in the logs.
        train: see `Train`.
        stepped: called when the step has been made, before schedules move.
        columns: see `Columns`.
        skipped: whether the batch before the first one was skipped: a resumed loop asks before any batch has come.
    """

    def __init__(
        self,
        trainer: Trainer,
        choose: Choose,
        train: Train,
        stepped: Callable[[], None],
        columns: Columns,
        *,
        skipped: bool = False,
    ) -> None:
        self._patched: list[tuple[Any, str, Any]] = []
        self._steps = not skipped
        self._arrived: tuple[Any, int] = (None, -1)
        strategy: Any = trainer.strategy
        epoch_loop: Any = trainer.fit_loop.epoch_loop
        batch_start, training_step = strategy.on_train_batch_start, strategy.training_step

        def on_train_batch_start(batch: Any, batch_idx: int) -> Any:
            self._steps = True
            self._arrived = batch, batch_idx
            return batch_start(batch, batch_idx)

        # Called after every callback's and the module's own hook, so that it gets the batch that would be trained.
        self._replace(strategy, "on_train_batch_start", on_train_batch_start)
        self._replace(strategy, "training_step", lambda *args: train(training_step, args))

        accumulate = epoch_loop._should_accumulate
        self._replace(epoch_loop, "_should_accumulate", lambda: not self._steps or accumulate())
        for loop in (epoch_loop.automatic_optimization, epoch_loop.manual_optimization):
            self._replace(loop, "run", self._unless_skipped(loop.run, choose, stepped))
        # Under manual optimization the connector writes a row after every batch, whatever `_should_accumulate` says.
        connector: Any = cast("Any", trainer)._logger_connector
        self._watch_rows(connector, columns)

    def once(self, owner: Any, name: str, before: Callable[[], None]) -> None:
        """Call `before` ahead of the next call of a method."""
        original = getattr(owner, name)

        def first(*args: Any) -> Any:
            restore(owner, name, first)
            before()
            return original(*args)

        self._replace(owner, name, first)

    def remove(self) -> None:
        """Put everything back. Harmless when called again."""
        while self._patched:
            restore(*self._patched.pop())

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        self._patched.append((owner, name, function))
        setattr(owner, name, function)

    def _watch_rows(self, connector: Any, columns: Columns) -> None:
        """Add `columns` to what is written of a step or an epoch; of a skipped step nothing is."""
        write, row = connector.log_metrics, ""  # of what kind the row is that is being written

        def around(name: str, kind: str) -> None:
            update = getattr(connector, name)

            def write_row() -> None:
                nonlocal row
                row = kind
                try:
                    if kind == "epoch" or self._steps:
                        update()
                finally:
                    row = ""

            self._replace(connector, name, write_row)

        def log_metrics(metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            # Each would take Lightning half a millisecond, if it came through the module's `log`.
            more = columns(row) if row and metrics and connector.trainer.loggers else {}
            write({**metrics, **more}, *args, **kwargs)

        around("update_train_step_metrics", "step")
        around("update_train_epoch_metrics", "epoch")
        self._replace(connector, "log_metrics", log_metrics)

    def _unless_skipped(
        self, run: Callable[..., Any], choose: Choose, stepped: Callable[[], None]
    ) -> Callable[..., Any]:
        """Choose, then `run` if that makes a step. Not earlier: a hook that answered -1 has declined the batch."""

        def choose_then_run(*args: Any, **kwargs: Any) -> Any:
            self._steps = choose(*self._arrived)
            try:
                return run(*args, **kwargs) if self._steps else {}
            finally:
                stepped()

        return choose_then_run


def restore(owner: Any, name: str, ours: Any) -> None:
    """Take an attribute that was put into an instance back out, unless someone has put another there since."""
    if owner.__dict__.get(name) is ours:
        delattr(owner, name)
