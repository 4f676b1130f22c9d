"""What selection writes into the user's log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from litselect.callbacks.kept import kept_columns

if TYPE_CHECKING:
    from litselect.callbacks.selection_session import SelectionSession

PREFIX = "select/"


def log_batch(session: SelectionSession, prog_bar: bool) -> None:
    """Log the newest batch beside what the module logs at this step.

    Only at steps at which the Trainer writes, and only if the module writes too: selection adds columns, never rows.
    """
    trainer, module, selection, scores = session.trainer, session.module, session.selection, session.scores
    kept = 1.0 if selection is None else len(selection) / session.candidates
    if prog_bar:
        module.log("kept", kept, prog_bar=True, logger=False)
    if not cast("Any", trainer)._logger_connector.should_update_logs or not _module_logs(session, "on_step"):
        return
    _forget(session)
    values: dict[str, float | Tensor] = {name: float(v) for name, v in vars(session.callback.counters).items()}
    values["kept"] = kept
    values.update(kept_columns(session.callback))
    if session.callback.ratings is not None:
        values.update(session.callback.ratings.columns())
    if scores is not None:
        values["loss_all"] = scores.losses.mean()
        if selection is not None and len(selection):
            values["loss_chosen"] = scores.losses[selection.indices].mean()
    module.log_dict({PREFIX + name: value for name, value in values.items()}, on_step=True, on_epoch=False)


def log_epoch(session: SelectionSession) -> None:
    """Log the counters at the end of an epoch, beside what the module logs there."""
    if _module_logs(session, "on_epoch"):
        counters = vars(session.callback.counters)
        session.module.log_dict({f"{PREFIX}{name}": float(value) for name, value in counters.items()}, on_epoch=True)


def _forget(session: SelectionSession) -> None:
    """Lightning repeats what was last logged: here, the losses of a scored batch beside one that was not."""
    results: Any = cast("Any", session.trainer)._results
    for _, metric in list(results.valid_items()):
        if metric.meta.name.startswith(PREFIX):
            metric.reset()


def _module_logs(session: SelectionSession, when: str) -> bool:
    """Whether a row is about to be written anyway."""
    results: Any = cast("Any", session.trainer)._results
    return any(
        metric.meta.logger and getattr(metric.meta, when) and not metric.meta.name.startswith(PREFIX)
        for _, metric in results.valid_items()
    )
