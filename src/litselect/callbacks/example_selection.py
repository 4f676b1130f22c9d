"""Training on chosen rows, as a Lightning callback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from litselect.callbacks.active_phase import ActivePhase
from litselect.callbacks.auto_scoring import AutoScoring, WhenUnprofitable, check_when
from litselect.callbacks.batch_sizes import declared_batch_size
from litselect.callbacks.callback_base import CallbackBase
from litselect.callbacks.counters import Counters
from litselect.callbacks.example_memory import ExampleMemory
from litselect.callbacks.kept import meet_data
from litselect.callbacks.learning_rate import RaisedLearningRate
from litselect.callbacks.long_schedule import warn_of_long_schedule
from litselect.callbacks.memory_setup import begin_anew, learning_rate_factor, place_selector, prepare_memory
from litselect.callbacks.nonfinite import Policy
from litselect.callbacks.ratings import Ratings, as_ratings
from litselect.callbacks.refill_queue import RefillQueue
from litselect.callbacks.requirements import check_fit, check_settings
from litselect.callbacks.resume_loops import around_fit_loop, resume_run, settle_progress, warn_of_fresh_start
from litselect.callbacks.reused_forward import ReuseForward
from litselect.callbacks.run_state import gather_ranks, load_own, own_state, pick_state, selector_name
from litselect.callbacks.score_plan import REMEMBERED, ScorePlan
from litselect.callbacks.selection_log import publish, show
from litselect.callbacks.selection_session import SelectionSession
from litselect.scoring import Ledger, RaterArtifact, ScoringPass
from litselect.scoring.raters import KeptLabels
from litselect.selectors import Selector

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_memory import FindIds
    from litselect.callbacks.proxy_training import ProxyTraining
    from litselect.scoring.loss_source import LossFunction


class ExampleSelection(CallbackBase):
    """Score the examples of every batch, train the ones that a selector chooses.

    The module, the data and the loss stay as they are:

    .. code-block:: diff

        -trainer = Trainer(max_epochs=20)
        +trainer = Trainer(max_epochs=20, callbacks=[ExampleSelection(TopLoss(keep=1/3))])

    Hooks and the logger see what they always saw, but ``on_train_batch_start`` and ``on_train_batch_end`` get the
    candidates, of which ``training_step`` gets the chosen rows.

    Under manual optimization all of ``training_step`` gets the chosen rows, be it for one optimizer or several, toggled
    or not, with any number of backward calls. An example's score is its part of the loss that goes backward *first*:
    the scoring pass ends there. Where that loss says nothing about the examples (a GAN that trains its generator first,
    on noise) or has a gradient in it (a penalty), define ``example_losses``.

    One of a kind: a Trainer takes one callback of this family, since a second one would select from what the first has
    chosen, and both would keep their state under one name. Selectors can be combined inside it.

    Cost: one scoring pass over each batch (about a third of plain training of it), unless the selector looks at
    nothing, plus training of the chosen rows.

    Args:
        selector: which rows.
        scoring: how the scores are computed; by default ``ScoringPass()``. ``"ledger"`` selects by the losses that
            training computed anyway, without any scoring pass: the first epoch trains everything, then an example
            ranks by its last known loss, among all examples of the data set. ``"auto"`` measures which pass is the
            cheapest that chooses the same rows, and whether selection pays, see `AutoScoring`.
        when_unprofitable: what ``"auto"`` does where selection costs more time than it saves: ``"select"`` goes on with
            a warning, ``"train_all"`` trains all rows.
        loss_fn: ``loss_fn(module, batch) -> Tensor[N]``, where the losses can't be captured from ``training_step``
            and the module has no ``example_losses(batch)``.
        refill: collect the chosen rows of several batches until a full training batch (the DataLoader's batch size)
            exists. Batches in between are true skips, which nothing counts as steps. What waits at the end of an epoch
            is trained in the next; at the end of training, dropped.
        rescore_every: score everything in every n-th epoch only, and select by those losses in between.
        max_age: do not score an example again whose last known loss is at most so many epochs old; 0 scores all.
        ledger: remember the losses of every example even where selection needs no memory, see `ledger`.
        ids: ``ids(batch) -> Tensor[N]``, the position of each example in the data set, where it can't be read off the
            DataLoader's batch sampler.
        ratings: for a selector that needs them: a tensor with the rating of example i at place i (see
            `RaterArtifact.scores`), which costs nothing; or a `RaterArtifact` or its folder, which rates each batch.
        skip_loading: choose rows before they are loaded, so that others are not decoded, not moved and not seen by
            hooks. By default, where scores come from the ledger or a table of ratings, and `ids` is not given.
        warmup: how many epochs at the beginning train on everything; 0.5 is half an epoch, ``"auto"`` one epoch or a
            tenth of the training, whichever is shorter (100 batches where nobody knows its length). By default 0; with
            ``scoring="ledger"`` both mean 1.
        warmup_steps: the same in incoming batches.
        start: selection is on from here: a ``float`` is a fraction of training, an ``int`` a number of epochs.
        end: and until here.
        across_ranks: choose from the candidates of all ranks together, as from the concatenated batch: one history, one
            draw. Ranks then train unequal numbers of rows, and their losses are scaled so that the gradient is the mean
            over all. Costs two collectives a batch.
        reuse_forward: score by the training step's own forward, dropout included, and go backward through the chosen
            rows of it, at plain training's memory (`ForwardReuse`); where that can't be done, a warning says why.
            ``"batchnorm"`` also accepts an approximate gradient of batch normalisation.
        nonfinite: what to do with NaN or inf scores: ``"raise"``, ``"drop"`` (train no row that has one, skip a batch
            with too few others; rows that are not scored are trained: all during a warm-up, and by remembered losses
            all once) or ``"train"`` (always). The latter two make the host wait for the device once a batch.
        prog_bar: show the kept fraction in the progress bar.

    Attributes:
        counters: rows seen, scored and trained, optimizer steps, seconds.

    Raises:
        ValueError: if a setting is out of range; at fit start, if Trainer or module don't fit (see the message).
        CaptureError: on the first batch, if there is no per-example loss to be had.
        FloatingPointError: before the optimizer steps, if a score is NaN or inf.
    """

    _selects_examples = True

    def __init__(
        self,
        selector: Selector,
        *,
        scoring: ScoringPass | Literal["ledger", "auto"] | None = None,
        when_unprofitable: WhenUnprofitable = "select",
        loss_fn: LossFunction | None = None,
        refill: bool = False,
        rescore_every: int = 1,
        max_age: int = 0,
        ledger: bool = False,
        ids: FindIds | None = None,
        ratings: Tensor | RaterArtifact | str | Path | Ratings | None = None,
        skip_loading: bool | None = None,
        warmup: float | Literal["auto"] | None = None,
        warmup_steps: int = 0,
        start: float = 0.0,
        end: float = 1.0,
        across_ranks: bool = False,
        reuse_forward: ReuseForward = False,
        nonfinite: Policy = "raise",
        prog_bar: bool = False,
    ) -> None:
        check_settings(selector, nonfinite, loss_fn=loss_fn, ids=ids)
        self.selector = selector
        if scoring is None:
            scoring = "ledger" if selector.remembers and rescore_every == 1 and max_age == 0 else ScoringPass()
        self.ratings = as_ratings(ratings)
        keeps = ledger or bool(selector.needs & REMEMBERED) or bool(self.ratings and self.ratings.asks_for_ids)
        self.plan = ScorePlan.of(scoring, rescore_every, max_age, keeps, not selector.needs)
        self.scoring = scoring if isinstance(scoring, ScoringPass) else ScoringPass()
        check_when(when_unprofitable, scoring)
        self.when_unprofitable: WhenUnprofitable = when_unprofitable
        self.auto = AutoScoring(when_unprofitable) if scoring == "auto" else None
        self.proxy: ProxyTraining | None = None
        self.ids, self.loss_fn, self.skip_loading, self.refill = ids, loss_fn, skip_loading, refill
        self.memory: ExampleMemory | None = None
        self.learning_rate = RaisedLearningRate()
        if self.plan.free and warmup in (None, "auto"):
            warmup = 1  # there is nothing to select by before
        self.phase = ActivePhase(warmup or 0, warmup_steps, start, end)
        self.across_ranks, self.reuse_forward, self.reuse_refused = across_ranks, reuse_forward, ""  # or why not
        self.nonfinite: Policy = nonfinite
        self.prog_bar = prog_bar
        self.kept_labels = KeptLabels()  # of a selection by ratings
        self.counters, self.queue = Counters(), RefillQueue()
        self.training_batch_size = self.checks = 0
        self.skipped = self.verified = False  # whether the newest batch made no step; losses belong to their rows
        self._rank, self._world_size, self._resumed, self._fits = 0, 1, False, True
        self._loaded: dict[str, Any] | None = None  # what a checkpoint says of the run, until training starts
        self._device: torch.device | None = None  # of the module, from the first fit on
        self._session: SelectionSession | None = None

    # ------------------------------------------------------------------ hooks, in the order of their calls

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before the data is loaded."""
        self._fits, self._loaded = stage == "fit", None
        if not self._fits:
            return
        begin_anew(self, trainer)
        check_fit(self, trainer, pl_module)
        self._rank, self._world_size, self._resumed = trainer.global_rank, trainer.world_size, False
        self.training_batch_size, self.checks, self.verified, self.reuse_refused = 0, 0, False, ""
        self.queue = RefillQueue()  # what an earlier fit left over may be rows of other data
        if self.auto is not None:
            self.auto, self.scoring = AutoScoring(self.when_unprofitable), ScoringPass()
        self.memory = prepare_memory(self, trainer)
        if self.memory is not None:
            place_selector(self, trainer)  # who may choose before training starts
            self.memory.attach(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that selection ends with the fit loop, whichever way that is left."""

        def begin() -> None:
            if self._loaded is not None:
                self._loaded["loaders"] = list(getattr(trainer.fit_loop, "_combined_loader_states_to_load", []))
            if self._resumed:
                settle_progress(trainer, pl_module, self.skipped)

        around_fit_loop(trainer, begin, self._close)
        if self.memory is not None:
            self.memory.expect()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to select."""
        self.phase.validate(trainer, self.selector)
        if self.refill:
            self.training_batch_size = declared_batch_size(trainer) or self.training_batch_size
            warn_of_long_schedule(trainer, self.selector)
        if not self._resumed:
            warn_of_fresh_start(self, trainer)
        meet_data(self, trainer, pl_module.device)
        if self.memory is not None:
            self.memory.begin(pl_module.device)
        self._session = session = SelectionSession(self, trainer, pl_module)
        self._device = pl_module.device

        def begin() -> None:
            if self._loaded is not None:
                resume_run(self, self._loaded, trainer, pl_module, session.patch)
                self._loaded = None
            place_selector(self, trainer)  # whose default seed is that of the stream which has just been resumed

        session.patch.once(trainer.strategy, "on_train_start", begin)  # after everybody else's hook, which may draw

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the ranks tell each other what they know, and rank it."""
        if self.memory is not None:
            step = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            active = self.phase.active_at(trainer, 0, self.phase.epoch_length(trainer))
            self.memory.begin_epoch(trainer.current_epoch, step, active, self.selector.keep, pl_module.device)
            self.memory.learning_rate_factor = learning_rate_factor(self, trainer, active)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Look at the loss of batches that are not scored, under automatic and manual optimization alike."""
        if self._session is not None:
            self._session.look_at_loss(loss)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """No step is made from scores that were NaN."""
        if self._session is not None:
            self._session.guard.raise_if_bad()
            self.learning_rate.apply(optimizer, 1.0 if self.memory is None else self.memory.learning_rate_factor)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and show."""
        if self._session is not None and self._session.batch_done():
            show(self._session, self.prog_bar)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the totals be monitored."""
        if self._session is not None:
            publish(self._session, "epoch")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the ranks tell each other what they learned last."""
        if self.memory is not None:
            self.memory.share(pl_module.device)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give up the loaders, where the fit loop was left without notice."""
        if self.memory is not None:
            self.memory.detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take back `on_fit_start`, in case that the loop was never reached."""
        vars(trainer.fit_loop).pop("run", None)
        if self.memory is not None:
            self.memory.detach()

    @property
    def ledger(self) -> Ledger | None:
        """What is remembered of every example by now (ask again for later batches), from the first fit on."""
        return None if self.memory is None else self.memory.ledger

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Counters, the selector's state, rows that wait and random streams of all ranks; for ``weights_only=True``."""
        return {
            "selector": selector_name(self.selector),
            "across_ranks": self.across_ranks,
            "ranks": gather_ranks(own_state(self, self._session and self._session.module, self._device)),
            "memory": None if self.memory is None else self.memory.state_dict(self._device),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint. Of one that another selector or number of processes made, what fits is used."""
        if self._fits:  # or a checkpoint is tested: nothing goes on from it
            state = pick_state(state_dict, self, self._rank, self._world_size)
            load_own(self, state, state_dict.get("memory"))
            self._loaded = state if state["streams"] is not None else None
            self._resumed = True

    def _close(self) -> None:
        if self.memory is not None:
            self.memory.detach()
        if self._session is not None:
            self._session.close()
            self._session = None
