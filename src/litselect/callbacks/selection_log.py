"""What selection writes into the user's log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from litselect.callbacks.kept import kept_columns

if TYPE_CHECKING:
    from litselect.callbacks.selection_session import SelectionSession

PREFIX = "select/"


def logged(session: SelectionSession, row: str) -> dict[str, Tensor]:
    """What stands beside what the module logs of a step or an epoch: selection adds columns, never rows.

    Args:
        session: the selection.
        row: ``"step"``, with all that is known of the newest batch, or ``"epoch"``, with the counters alone.
    """
    callback, selection, scores = session.callback, session.selection, session.scores
    values: dict[str, float | Tensor] = dict(vars(callback.counters))
    if row == "step":
        values["kept"] = session.kept
        values.update(kept_columns(callback))
        if callback.ratings is not None:
            values.update(callback.ratings.columns())
        if scores is not None:
            values["loss_all"] = scores.losses.mean()
            if selection is not None and len(selection):
                values["loss_chosen"] = scores.losses[selection.indices].mean()
    return {PREFIX + name: _number(value) for name, value in values.items()}


def show(session: SelectionSession, prog_bar: bool) -> None:
    """Let the progress bar and other callbacks see the newest batch."""
    connector: Any = cast("Any", session.trainer)._logger_connector
    if prog_bar:
        session.module.log("kept", session.kept, prog_bar=True, logger=False)
    if connector.should_update_logs:
        publish(session, "step")
    else:
        connector._callback_metrics[f"{PREFIX}kept"] = _number(session.kept)


def publish(session: SelectionSession, row: str) -> None:
    """Let other callbacks monitor what is logged, with or without a logger."""
    cast("Any", session.trainer)._logger_connector._callback_metrics.update(logged(session, row))


def _number(value: float | Tensor) -> Tensor:
    """Counts may exceed what float32 can hold."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
