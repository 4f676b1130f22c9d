"""What selection asks of its settings, the Trainer and the module, checked before the first step."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

from litselect.callbacks.nonfinite import POLICIES
from litselect.callbacks.ratings import rated_by_id
from litselect.callbacks.reused_forward import check_reuse
from litselect.callbacks.score_plan import REMEMBERED
from litselect.scoring.scoring_pass import is_compiled
from litselect.selectors import Selector

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection


_FUNCTIONS = {"loss_fn": "lambda module, batch: ...", "ids": 'lambda batch: batch["id"]'}


def check_settings(selector: Any, nonfinite: Any, **functions: Any) -> None:
    """Refuse what is no selector, no policy or no function.

    Args:
        selector: what is to select.
        nonfinite: a policy.
        **functions: of a batch, or None, by name.

    Raises:
        TypeError: of a selector or a function.
        ValueError: of a policy.
    """
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"Expected {name} to be a function, such as {_FUNCTIONS[name]}, but got {function!r}.")
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
    elif "losses" not in callback.selector.needs:
        reason = f"passes are compared by losses, which {callback.selector!r} does not look at"
    elif callback.plan.recalls:
        reason = "rescore_every, max_age and ScoringPass(every=n) select by remembered losses"
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
