"""What a fit needs of the ledger, and what the ledger says of the fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from litselect.callbacks.counters import Counters
from litselect.callbacks.early_choice import EarlyChoice
from litselect.callbacks.example_memory import ExampleMemory
from litselect.callbacks.nonfinite import select_finite
from litselect.callbacks.ratings import rated_by_id

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from litselect.callbacks.example_selection import ExampleSelection


def prepare_memory(callback: ExampleSelection, trainer: Trainer) -> ExampleMemory | None:
    """The ledger for a fit, if the settings ask for one: to be attached before the loaders are made.

    A fit that goes on with the same Trainer keeps what it knows; another one may be of other data.
    """
    plan, early = callback.plan, callback.skip_loading
    if not plan.needs_ledger and not early:
        return None
    if early is None:
        early = (plan.free or plan.rescore_every > 1 or rated_by_id(callback)) and callback.ids is None
        early = early and (callback.ratings is None or callback.ratings.by_id)
    old = callback.memory if trainer.fit_loop.epoch_progress.current.ready > 0 else None
    memory = ExampleMemory(
        replace(plan, scored_epoch=None),
        callback.ids,
        EarlyChoice(callback, trainer) if early else None,
    )
    if old is not None:
        memory.take_over(old)
    return memory


def begin_anew(callback: ExampleSelection, trainer: Trainer) -> None:
    """Forget an earlier training. A fit that goes on with the same Trainer forgets nothing; checkpoints come later."""
    if trainer.fit_loop.epoch_progress.current.ready == 0:
        callback.selector.reset()
        callback.counters = Counters()
        callback.phase.pace.reset()


def place_selector(callback: ExampleSelection, trainer: Trainer) -> None:
    """Give each rank a random stream of its own, or all of them a common one."""
    if not callback.across_ranks:
        # Ranks that hold parts of one network get the same data and must choose the same rows of it.
        callback.selector.rank = (trainer.distributed_sampler_kwargs or {}).get("rank", trainer.global_rank)
    elif trainer.world_size > 1:
        callback.selector.default_seed = trainer.strategy.broadcast(torch.initial_seed())


def learning_rate_factor(callback: ExampleSelection, trainer: Trainer, active: bool) -> float:
    """By how much longer the steps of this epoch are to be, as hidden examples make for fewer of them.

    The share that is going to be hidden is found out by asking the selector about the whole data set. 1 for selectors
    that don't ask for it, and where as many steps are made as ever (without refilling).
    """
    memory, selector = callback.memory, callback.selector
    if not (callback.refill and active and selector.compensates and memory is not None):
        return 1.0
    progress = callback.phase.progress_at(trainer, 0, callback.phase.epoch_length(trainer))  # the loops' is behind
    selector.at(progress, trainer.current_epoch, callback.phase.epochs(trainer))
    ids = memory.ledger.seen.nonzero().squeeze(1)  # a sampler may leave some out for good
    if not len(ids):
        return 1.0
    kept = select_finite(selector, memory.recall(ids), selector.count(len(ids)), callback.nonfinite)
    return len(ids) / max(1, len(kept))
