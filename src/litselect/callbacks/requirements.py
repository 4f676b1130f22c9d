"""What selection asks of a Trainer, a module and a schedule, checked before the first step."""

from __future__ import annotations

import inspect
import math
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection


def check_fit(callback: ExampleSelection, trainer: Trainer, module: LightningModule) -> None:
    """Refuse combinations that can't work.

    Raises:
        ValueError: with the invariant, what was received and the remedy.
    """
    name = type(callback).__name__
    rivals = [type(other).__name__ for other in cast("Any", trainer).callbacks if hasattr(other, "_selects_examples")]
    if len(rivals) > 1:
        raise ValueError(
            f"A Trainer can have one callback that selects examples, but got {', '.join(rivals)}: each would select "
            "from what the other has chosen. Keep one; selectors can be combined inside it."
        )
    check_accumulation(callback, trainer)
    if callback.across_ranks and trainer.world_size > 1 and not module.automatic_optimization:
        raise ValueError(
            f"{name}(across_ranks=True) scales the loss of each rank by its share of the chosen rows, which it can't "
            f"do where {type(module).__name__} optimizes manually. Use automatic optimization or across_ranks=False."
        )
    replicas = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", trainer.world_size)
    if callback.across_ranks and replicas != trainer.world_size:
        raise ValueError(
            f"{name}(across_ranks=True) takes every rank for a share of the data, but of {trainer.world_size} ranks "
            f"only {replicas} get data of their own (tensor parallelism). Use across_ranks=False."
        )
    provided = {"losses"} if callback.across_ranks else {"losses", "logits", "targets"}
    if unknown := sorted(callback.selector.needs - provided):
        raise ValueError(
            f"{callback.selector!r} needs {', '.join(unknown)}, but {name} provides {', '.join(sorted(provided))}. "
            "Use a selector that needs no more."
        )
    parameters = inspect.signature(module.training_step).parameters
    if "dataloader_iter" in parameters:
        raise ValueError(
            f"{type(module).__name__}.training_step takes a `dataloader_iter` and fetches its own batches, so there is "
            "no batch to select from. Let it take `batch`."
        )


def check_accumulation(callback: ExampleSelection, trainer: Trainer) -> None:
    """Refuse refilling while gradients are accumulated, now or later (GradientAccumulationScheduler).

    Raises:
        ValueError: if they are.
    """
    if not callback.refill:
        return
    schedules = [getattr(other, "scheduling", {}) for other in cast("Any", trainer).callbacks]
    factor = max([trainer.accumulate_grad_batches, *(size for schedule in schedules for size in schedule.values())])
    if factor > 1:
        name = type(callback).__name__
        raise ValueError(
            f"{name}(refill=True) fills whole training batches, so it can't be combined with "
            f"accumulate_grad_batches={factor}. Either remove `accumulate_grad_batches` from "
            f"the Trainer and enlarge the DataLoader's batch size, or use {name}(refill=False)."
        )


def declared_batch_size(trainer: Trainer) -> int:
    """The batch size of the training DataLoader, or 0 where none is declared."""
    loaders = cast("Any", trainer.fit_loop)._combined_loader.flattened
    sizes = [getattr(loader, "batch_size", None) for loader in loaders]
    sizes += [getattr(getattr(loader, "batch_sampler", None), "batch_size", None) for loader in loaders]
    return next((size for size in sizes if isinstance(size, int)), 0)


def warn_of_long_schedule(trainer: Trainer, keep: float) -> None:
    """Warn if a schedule counts steps that refilling will not make."""
    planned = trainer.estimated_stepping_batches
    if planned in (math.inf, -1) or keep >= 1 or trainer.max_steps > 0:
        return
    for config in trainer.lr_scheduler_configs:
        if config.interval == "step" and planned in set(_numbers(config.scheduler)):
            warnings.warn(
                f"{type(config.scheduler).__name__} is sized for {planned} steps, the number of incoming batches, but "
                f"refill=True makes only about {keep:.2g} times as many: the learning rate will not reach its end. "
                f"Size it for {math.ceil(keep * float(planned))} steps (estimated_stepping_batches * {keep:.2g}).",
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
