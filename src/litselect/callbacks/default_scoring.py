"""Remembered losses where they can be had, a scoring pass where not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, cast

from litselect.callbacks.active_phase import ActivePhase
from litselect.callbacks.epoch_pace import steps_in
from litselect.callbacks.log_of import log_of
from litselect.callbacks.run_state import gather_ranks
from litselect.callbacks.score_plan import ScorePlan
from litselect.callbacks.told_length import told_length
from litselect.scoring.scoring_pass import is_compiled

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection
    from litselect.selectors import LossPercentile

_FLOOR: Final = 0.1
_LONG: Final = 2.0  # epochs' worth of training, of which half goes into rows that were never trained
_ENDS: Final = "selection ends with the first epoch, or with as many rows, by which they would be known"


def default_floor(keep: float) -> float:
    """The least inclusion probability beside remembered losses: every example's loss is renewed now and then."""
    return min(_FLOOR, keep / 2)  # of a smaller keep, half is left to the law


def asks_where_from(refill: bool, warmup: Any, settings: dict[str, Any]) -> bool:
    """Whether settings say where scores come from, or what does not go with remembered losses."""
    at_once = isinstance(warmup, (int, float)) and warmup < 1  # nothing is remembered yet
    answers = ("scoring", "rescore_every", "max_age", "ratings")
    others = ("across_ranks", "reuse_forward", "ledger")
    return (
        refill
        or at_once
        or any(settings.get(name) is not None for name in answers)
        or any(settings.get(name) for name in others)
        or settings.get("nonfinite") == "drop"  # of a row that was never trained it isn't known whether it is to be
    )


class DefaultScoring:
    """Decides for each training, on all ranks alike, whether scores are remembered.

    What can stand against that shows in the module, in the loader, or during the first epoch, which loads all rows and
    chooses none by what is remembered. In the first two cases the pass selects from its own warm-up on; in the third,
    from the second epoch on. Then, and when an epoch brings a loader of no use, the ranks agree before its first batch
    is sent for, so nothing was chosen yet. A training that goes on, from a checkpoint or with the same Trainer, goes on
    as it did.

    Without a `warmup` of the user's, a training of ``2 / keep`` epochs or more begins with chance: rows that were never
    trained come first, so that after ``1 / keep`` epochs each was trained once, in batches of the size that all batches
    have (but for a few, where a batch holds more of them than it trains). Of a shorter one too little would be left to
    select: its first epoch trains everything.

    Args:
        callback: set to select by remembered losses.
        law: its selector.
        floor: the user's, or None: `default_floor` beside remembered losses, 0 beside a pass.
        warmup: the user's.
    """

    def __init__(self, callback: ExampleSelection, law: LossPercentile, floor: float | None, warmup: Any) -> None:
        self._callback, self._law = callback, law
        phase = callback.phase
        rest = phase.warmup_steps, phase.start, phase.end, phase.pace
        self._remembered = callback.plan, phase, law.floor
        self._at_once = ActivePhase(0, *rest) if warmup == "auto" else phase
        self._most = math.inf  # epochs, by the number of steps
        self._passing = ScorePlan(), ActivePhase(warmup or 0, *rest), floor or 0.0
        self._goes_on = False

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """A fit begins."""
        callback = self._callback
        self._trainer = trainer
        self._goes_on = trainer.fit_loop.epoch_progress.current.ready > 0
        self._most = math.inf
        callback.plan, callback.phase, self._law.floor = self._remembered
        if self._goes_on and callback.memory is None:
            self.give_up("training goes on, and nothing is remembered of what was trained before")
        elif reason := self._about(module):
            self.give_up(reason)

    def listen(self) -> None:
        """The ledger is there."""
        if self._callback.memory is not None:
            self._callback.memory.doubts.objects = self._object

    def resume(self, state: Any) -> None:
        """A checkpoint says how the training went: not at all, if it is the one that a finder goes back to."""
        self._goes_on = self._goes_on or _has_begun(state)
        nothing = isinstance(state, dict) and cast("dict[str, Any]", state).get("memory") is None
        if nothing and self._callback.memory is not None:
            self.give_up("the checkpoint remembers no losses")

    def start(self) -> None:
        """Training starts. A collective."""
        memory = self._callback.memory
        if memory is not None and self._trainer.global_step > 0 and bool((memory.ledger.step < 0).all()):
            memory.doubts.settle(ValueError("training goes on, and nothing is remembered of what was trained before"))
        self._agree("" if memory is None or not memory.doubts.settled else memory.doubts.reason)
        self._follow()

    def _follow(self) -> None:
        """Begin as was decided, in this training or in the one that it goes on from."""
        if self._callback.memory is not None and self._callback.memory.at_once:
            self._callback.phase = self._at_once

    def agree(self) -> None:
        """Give up on all ranks what can't be had on one. A collective, before any row of the epoch is chosen."""
        memory = self._callback.memory
        doubt = "" if memory is None else memory.doubts.reason
        ends = self._begins() and self._epochs() <= 1  # as a budget may have foretold by now
        self._agree(doubt or (_ENDS if ends else ""))
        if self._begins() and self._callback.memory is not None:
            self._callback.memory.at_once = self._worth() >= _LONG
            self._follow()
            first = "what was never trained" if self._callback.memory.at_once else "an epoch of all rows"
            self._say('selects by remembered losses, as scoring="ledger" says: first comes %s', first)

    def _agree(self, doubt: str) -> None:
        reasons: list[str] = []
        if self._callback.memory is not None:
            reasons = [own["doubt"] for own in gather_ranks({"doubt": doubt})]
        if any(reasons):
            self.give_up(max(reasons))

    def give_up(self, reason: str) -> None:
        """Score every batch from now on, and say why."""
        callback = self._callback
        callback.plan, callback.phase, self._law.floor = self._passing
        if callback.memory is not None:
            callback.memory.doubts.settled = True
            callback.memory.detach()
            callback.memory = None
        self._say(
            "scores each batch by a forward pass, as scoring=ScoringPass() says, since losses can't be remembered "
            "here: %s",
            reason,
        )

    def _say(self, what: str, *values: Any) -> None:
        if self._trainer.is_global_zero:
            name = type(self._callback).__name__
            log_of(self._trainer).info(f"%s {what}", name, *values)

    # ------------------------------------------------------------------ what stands against it

    def _about(self, module: LightningModule) -> str:
        name = type(module).__name__
        if self._callback.loss_fn is not None:
            return "loss_fn computes the losses of examples, not training_step"
        if callable(getattr(module, "example_losses", None)):
            return f"{name}.example_losses computes the losses of examples, not training_step"
        return f"{name} is compiled, and compiled code computes its losses unseen" if is_compiled(module) else ""

    def _object(self, loader: Any) -> None:
        """Refuse a loader by which the examples come too seldom, or under names that ranks don't share.

        Raises:
            ValueError: with the reason.
        """
        if reason := (self._begins() and self._about_length(loader)) or self._about_ids(loader):
            raise ValueError(reason)

    def _begins(self) -> bool:
        """Whether this is the first epoch of all."""
        return not self._goes_on and self._trainer.current_epoch == 0

    def _about_length(self, loader: Any) -> str:
        trainer = self._trainer
        told = told_length(loader)
        batches = math.inf if told is None else float(told)  # of a stream nobody knows
        limit = trainer.limit_train_batches
        if limit != 1.0 if isinstance(limit, float) else limit < batches:
            return f"limit_train_batches={limit} leaves out examples in every epoch"
        if trainer.max_steps > 0:
            self._most = 0.0 if batches == math.inf else trainer.max_steps / steps_in(trainer, batches)
        return _ENDS if self._epochs() <= 1 else ""

    def _epochs(self) -> float:
        """Those in which there is selection."""
        limit, end = self._trainer.max_epochs, self._callback.phase.end
        epochs = min(self._most, _or_endless(limit))
        return min(epochs, end * epochs if isinstance(end, float) else end)

    def _worth(self) -> float:
        """How many epochs of plain training would train as many rows, as far as that is known."""
        keep, end, limit = self._law.keep, self._callback.phase.end, self._trainer.max_epochs
        budgets = [c for c in cast("list[Any]", cast("Any", self._trainer).callbacks) if hasattr(c, "worth")]
        worth = min(budget.worth(keep) for budget in budgets) if budgets else keep * _or_endless(limit)
        worth = min(worth, keep * self._most)
        return worth * end if isinstance(end, float) else min(worth, keep * end)

    def _about_ids(self, loader: Any) -> str:
        if self._callback.ids is not None:
            return ""
        if not hasattr(getattr(loader, "dataset", None), "__len__"):
            return "the data set does not tell its length. Pass ids=..., which finds the examples' ids in a batch"
        sampler = getattr(loader, "batch_sampler", None)
        samplers = [sampler, getattr(sampler, "sampler", None), getattr(loader, "sampler", None)]
        kwargs = self._trainer.distributed_sampler_kwargs or {}
        if kwargs.get("num_replicas", self._trainer.world_size) > 1 and not any(
            hasattr(sampler, "num_replicas") for sampler in samplers
        ):
            return (
                f"{type(sampler).__name__} is not known to deal one data set out to the ranks, so that one id may name "
                "several examples. Pass ids=..., which finds in a batch ids that all ranks share"
            )
        return ""


def _has_begun(state: Any) -> bool:
    """Whether rows had been seen by then. What is no state of ours is refused elsewhere."""
    try:
        return any(own["counters"]["seen"] for own in state["ranks"])
    except (KeyError, TypeError):
        return True


def _or_endless(epochs: int | None) -> float:
    return math.inf if epochs is None or epochs < 0 else float(epochs)
