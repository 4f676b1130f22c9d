"""What selection asks of a Trainer, a module and a schedule, checked before the first step."""

from __future__ import annotations

import inspect
import math
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] - the base of all of them

from litselect.callbacks.nonfinite import POLICIES
from litselect.callbacks.ratings import rated_by_id
from litselect.callbacks.reused_forward import check_reuse
from litselect.callbacks.score_plan import REMEMBERED
from litselect.scoring.scoring_pass import is_compiled
from litselect.selectors import Selector

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection


def check_settings(selector: Any, nonfinite: Any) -> None:
    """Refuse what is no selector or no policy.

    Raises:
        TypeError: in the first case.
        ValueError: in the second.
    """
    if not isinstance(selector, Selector):
        raise TypeError(
            f"Expected a Selector, such as TopLoss(keep=0.5), but got {selector!r}. "
            "For Selective-Backprop use the preset SelectiveBackprop(keep=0.5)."
        )
    if nonfinite not in POLICIES:
        raise ValueError(f"Expected nonfinite to be one of {', '.join(POLICIES)}, but got {nonfinite!r}.")


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
    _check_provided(callback)
    _check_memory(callback, module)
    _check_scoring(callback, trainer)
    check_reuse(callback, module)
    parameters = inspect.signature(module.training_step).parameters
    if "dataloader_iter" in parameters:
        raise ValueError(
            f"{type(module).__name__}.training_step takes a `dataloader_iter` and fetches its own batches, so there is "
            "no batch to select from. Let it take `batch`."
        )


def check_rater(callback: ExampleSelection, trainer: Trainer, module: LightningModule) -> None:
    """Refuse modules whose next step can't be looked at ahead.

    Raises:
        ValueError: with the invariant, what was received and the remedy.
    """
    name, strategy = type(callback).__name__, type(trainer.strategy).__name__
    if not module.automatic_optimization:
        raise ValueError(
            f"{name} looks one optimizer step ahead, but {type(module).__name__} optimizes manually, so that no one "
            "knows what its step is. Use automatic optimization, or train a rater beforehand with RaterTrainer."
        )
    if any(part in strategy for part in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise ValueError(
            f"{name} runs the module on parameters of its own, which needs whole ones, but {strategy} shards them. "
            "Train a rater beforehand with RaterTrainer, on a smaller model."
        )


def require_settings(rater: nn.Module, positive: dict[str, float], others: dict[str, Any]) -> None:
    """Refuse settings of a live rater that can't work.

    Raises:
        ValueError: with the invariant, what was received and the remedy.
    """
    if wrong := {name: value for name, value in positive.items() if not value > 0}:
        raise ValueError(f"Expected numbers > 0, but got {wrong}. Leave them out for the defaults.")
    if not any(p.requires_grad for p in rater.parameters()):
        raise ValueError(
            f"A rater must have parameters to train, but {type(rater).__name__} has none that require gradients. "
            "Unfreeze some, or use a frozen rater with ExampleSelection(RatedSubset(...), ratings=...)."
        )
    if others.get("nonfinite", "raise") != "raise":
        raise ValueError(
            "A look-ahead trains on all candidates, so a loss that is NaN or inf ruins it, but "
            f"nonfinite={others['nonfinite']!r} was received. Leave it out, and take such examples out of the data."
        )


def _check_provided(callback: ExampleSelection) -> None:
    """Refuse a selector that needs what no one knows."""
    name, plan = type(callback).__name__, callback.plan
    if callback.across_ranks:
        provided, remedy = {"losses"}, "Use a selector that needs no more, or across_ranks=False."
    elif plan.recalls:
        provided = {"losses", "targets", *REMEMBERED}
        remedy = "Score every batch (scoring=ScoringPass(), rescore_every=1, max_age=0), or use another selector."
    else:
        provided, remedy = {"losses", "logits", "targets", *REMEMBERED}, "Use a selector that needs no more."
    if callback.ratings is not None:
        if callback.across_ranks:
            raise ValueError(
                f"{name}(across_ranks=True) chooses by the losses of all ranks, but `ratings` says that rows are "
                "rated. Use across_ranks=False: each rank then chooses among its own rows."
            )
        if "ratings" not in callback.selector.needs:
            raise ValueError(
                f"`ratings` are for a selector that looks at them, but {callback.selector!r} does not. Use "
                "RatedSubset(keep=...), or leave ratings out."
            )
        provided = {*provided, "ratings"}
    elif "ratings" in callback.selector.needs:
        remedy = "Use a selector that needs no more, or pass ratings=...: a RaterArtifact, or a table of scores."
    if callback.ratings is not None and not callback.ratings.needs <= provided:
        raise ValueError(
            "A rater that looks at the statistics of the model needs a scoring pass over every batch, but "
            f"{name} is set to go without one. {remedy}"
        )
    if unknown := sorted(callback.selector.needs - provided):
        raise ValueError(
            f"{callback.selector!r} needs {', '.join(unknown)}, but {name} provides {', '.join(sorted(provided))} "
            f"as it is set. {remedy}"
        )


def _check_scoring(callback: ExampleSelection, trainer: Trainer) -> None:
    """Refuse passes that could not be made, or not be measured."""
    name, reason = type(callback).__name__, None
    if not callback.selector.needs:
        reason = f"{callback.selector!r} looks at no scores"
    elif callback.plan.recalls:
        reason = "rescore_every and max_age select by remembered losses"
    elif callback.refill:
        reason = "refill=True makes most batches skips"
    elif callback.ratings is not None:
        reason = "ratings come from elsewhere"
    if callback.auto is not None and reason is not None:
        raise ValueError(
            f"{name}(scoring='auto') measures passes over each batch, and what a batch takes with and without "
            f"selection, but {reason}. Leave scoring out, or change that."
        )
    if callback.scoring.proxy is not None and trainer.precision in ("16-true", "bf16-true", "64-true"):
        raise ValueError(
            f"A proxy gets the batches that the module gets, but precision={trainer.precision!r} converts those, and "
            "the module, not the proxy. Use mixed precision, or leave the proxy out."
        )


def _check_memory(callback: ExampleSelection, module: LightningModule) -> None:
    """Refuse settings under which there is nothing to remember, or no one to choose early."""
    name, plan, early = type(callback).__name__, callback.plan, callback.skip_loading
    if plan.needs_ledger and callback.across_ranks:
        raise ValueError(
            f"{name}(across_ranks=True) chooses from what all ranks have just scored, but a ledger is asked for "
            "(scoring='ledger', rescore_every, max_age, every=n, ledger, or a selector that needs one). It is shared "
            "by all ranks anyway, at every epoch: use across_ranks=False."
        )
    if early and (callback.ids is not None or callback.across_ranks):
        raise ValueError(
            f"{name}(skip_loading=True) chooses when the batch sampler sends for a batch, but ids= looks for ids in "
            "the loaded batch, and across_ranks=True compares loaded batches. Leave skip_loading out."
        )
    if early and callback.selector.needs and not (plan.free or plan.rescore_every > 1 or rated_by_id(callback)):
        raise ValueError(
            f"{name}(skip_loading=True) chooses before rows are loaded, but {callback.selector!r} needs "
            f"{', '.join(sorted(callback.selector.needs))}, which is known only after they are scored. "
            'Use scoring="ledger" or rescore_every, or leave skip_loading out.'
        )
    if early and callback.ratings is not None and not callback.ratings.by_id:
        raise ValueError(
            f"{name}(skip_loading=True) chooses before rows are loaded, but they are rated by what is in them. Use a "
            "table of ratings (RaterArtifact.scores), or leave skip_loading out."
        )
    if not plan.overhears:
        return
    if not plan.free and (callback.scoring.proxy is not None or callback.scoring.resolution is not None):
        raise ValueError(
            f"{name} remembers the losses of training beside those of scoring passes (max_age and ScoringPass(every=n) "
            f"do), but those of {callback.scoring!r} are others. Use rescore_every=2, or leave the proxy and the "
            "resolution out."
        )
    given = "loss_fn" if callback.loss_fn is not None else "example_losses"
    if callback.loss_fn is not None or callable(getattr(module, "example_losses", None)):
        raise ValueError(
            f"{name} takes the losses of trained rows from what training_step computes (scoring='ledger', max_age and "
            f"a ledger beside a selector that looks at nothing do), but {given} says that they are computed otherwise. "
            f"Use rescore_every=2, which scores with {given}."
        )
    if is_compiled(module):
        raise ValueError(
            f"{name} takes the losses of trained rows from what training_step computes (scoring='ledger' and max_age "
            f"do), but {type(module).__name__} is compiled, and compiled code computes them unseen. Use "
            "rescore_every=2, or compile the parts that do not compute the loss inside training_step."
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


def fewest_rows(module: nn.Module) -> int:
    """One, or two where one row alone would crash batch statistics, to which a plain batch gives no trouble."""
    return 2 if any(isinstance(child, _BatchNorm) for child in module.modules()) else 1


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
