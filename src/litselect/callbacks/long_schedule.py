"""Schedules of the learning rate that count steps which are not made."""

from __future__ import annotations

import inspect
import math
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from litselect.selectors import Selector


def warn_of_long_schedule(trainer: Trainer, selector: Selector) -> None:
    """Warn if a schedule counts steps that refilling will not make."""
    planned, keep = trainer.estimated_stepping_batches, selector.keep
    if planned in (math.inf, -1) or keep >= 1 or trainer.max_steps > 0:
        return
    made = f"only about {keep:.2g} times as many"
    remedy = f"Size it for {math.ceil(keep * float(planned))} steps (estimated_stepping_batches * {keep:.2g})."
    if selector.at_least:
        made, remedy = f"fewer, as {selector!r} decides", "Let a BudgetSchedule follow a Budget(trained=...)."
    for config in trainer.lr_scheduler_configs:
        if config.interval == "step" and planned in set(_numbers(config.scheduler)):
            warnings.warn(
                f"{type(config.scheduler).__name__} is sized for {planned} steps, the number of incoming batches, but "
                f"refill=True makes {made}: the learning rate will not reach its end. {remedy}",
                stacklevel=2,
            )


def _numbers(scheduler: object, depth: int = 2) -> list[Any]:
    """Numbers a scheduler was made with: in its attributes, its children, its lambdas."""
    found: list[Any] = []
    for value in vars(scheduler).values():
        for item in cast("list[Any]", value) if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, (int, float)):
                found.append(item)
            elif isinstance(item, partial):
                found.extend([*item.args, *item.keywords.values()])
            elif inspect.isfunction(item):
                found.extend(cell.cell_contents for cell in item.__closure__ or ())
                found.extend([*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()])
            elif depth and hasattr(item, "__dict__") and (callable(item) or hasattr(item, "last_epoch")):
                found.extend(_numbers(item, depth - 1))
    return [number for number in found if isinstance(number, (int, float))]
