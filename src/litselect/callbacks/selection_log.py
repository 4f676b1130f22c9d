"""What selection writes into the user's log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from litselect.callbacks.kept import kept_columns

if TYPE_CHECKING:
    from litselect.callbacks.selection_session import SelectionSession

PREFIX = "select/"


def step_columns(session: SelectionSession) -> dict[str, Tensor]:
    """What stands beside what the module logs of a step: selection adds columns, never rows."""
    callback, selection, scores = session.callback, session.selection, session.scores
    values: dict[str, float | Tensor] = dict(vars(callback.counters))
    values["kept"] = session.kept
    values.update(kept_columns(callback))
    if callback.ratings is not None:
        values.update(callback.ratings.columns())
    if scores is not None:
        values["loss_all"] = scores.losses.mean()
        if selection is not None and len(selection):
            values["loss_chosen"] = scores.losses[selection.indices].mean()
    exact = torch.float64  # counts may exceed what float32 can hold
    return {
        PREFIX + name: value if isinstance(value, Tensor) else torch.tensor(value, dtype=exact)
        for name, value in values.items()
    }


def log_epoch(session: SelectionSession) -> None:
    """Log the counters at the end of an epoch, beside what the module logs there."""
    if _module_logs(session):
        counters = vars(session.callback.counters)
        session.module.log_dict({f"{PREFIX}{name}": float(value) for name, value in counters.items()}, on_epoch=True)


def _module_logs(session: SelectionSession) -> bool:
    """Whether a row is about to be written anyway."""
    results: Any = cast("Any", session.trainer)._results
    return any(
        metric.meta.logger and metric.meta.on_epoch and not metric.meta.name.startswith(PREFIX)
        for _, metric in results.valid_items()
    )
