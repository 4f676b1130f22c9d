"""Selection during one call of ``Trainer.fit``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from litselect.callbacks.batch_sizes import declared_batch_size, fewest_rows, least_chosen, warn_of_whole_batches
from litselect.callbacks.chosen import Chosen, present
from litselect.callbacks.finite_guard import FiniteGuard
from litselect.callbacks.kept import count_kept
from litselect.callbacks.loop_patch import LoopPatch
from litselect.callbacks.nonfinite import select_finite
from litselect.callbacks.proxy_training import ProxyTraining, share_proxy
from litselect.callbacks.rank_pool import all_ready, select_share
from litselect.callbacks.requirements import check_accumulation
from litselect.callbacks.scorer import Scorer
from litselect.callbacks.selected_step import SelectedStep
from litselect.callbacks.selection_log import logged
from litselect.callbacks.stopwatch import Stopwatch
from litselect.callbacks.topped_up import topped_up
from litselect.scoring import Scores
from litselect.scoring.rows import count_rows, take_rows

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection
    from litselect.selectors import Selection

_QUEUE_LIMIT = 4  # training batches that may wait for a slower rank


class SelectionSession:
    """Carries one batch after the other from candidates to the training step.

    Args:
        callback: settings and state.
        trainer: the Trainer, whose loops are patched until `close`.
        module: the network, unwrapped.
    """

    def __init__(self, callback: ExampleSelection, trainer: Trainer, module: LightningModule) -> None:
        self.callback, self.trainer, self.module = callback, trainer, module
        self.guard = FiniteGuard()
        self.selection: Selection | None = None
        self.candidates = 0
        self._scorer = Scorer(callback, trainer, module, self.guard)
        self._step = SelectedStep(callback, trainer, module, self.guard)
        self._watch = Stopwatch(callback.counters, module.device)
        self._chosen: Chosen | None = None
        self._ids: Tensor | None = None  # of the newest batch's candidates
        self._looks = self._selecting = self._selected = self._arrived = False
        self._auto = callback.auto
        self._rank = trainer.global_rank
        self._batch_size = declared_batch_size(trainer)
        self._optimizer_steps = trainer.global_step
        if callback.scoring.proxy is not None:
            share_proxy(callback.scoring.proxy, module.device)
        if callback.scoring.proxy_optimizer is not None:
            callback.proxy = callback.proxy or ProxyTraining(callback.scoring, callback.loss_fn)
            callback.proxy.place(module.device)
        self._minimum, self._least = fewest_rows(module), least_chosen(module, callback.refill)
        self.patch = LoopPatch(
            trainer,
            self._choose,
            self._train,
            callback.learning_rate.restore,
            lambda row: logged(self, row),
            skipped=callback.skipped,
        )

    @property
    def scores(self) -> Scores | None:
        """Those of the newest batch, where all of it was scored."""
        return self._scorer.scores

    @property
    def kept(self) -> float:
        """Which share of the newest batch's candidates was chosen."""
        if self.selection is None:
            return 0.0 if self.callback.skipped else 1.0
        return len(self.selection) / self.candidates

    def close(self) -> None:
        """Put the loops back."""
        self.patch.remove()
        if self.callback.proxy is not None:
            self.callback.proxy.leave()

    def batch_done(self) -> bool:
        """Count what the batch took. False where there was none: a loader may deliver None, which Lightning leaves."""
        if not self._arrived:
            return False
        self._arrived = False
        self._watch.lap("training_seconds")
        counters = self.callback.counters
        counters.trained += 0 if self._chosen is None else self._chosen.rows
        if self._looks and self._auto is not None and self._auto.end(self.trainer):
            self.callback.scoring = self._auto.scoring
        counters.steps += self.trainer.global_step - self._optimizer_steps
        self._optimizer_steps = self.trainer.global_step
        memory, extras = self.callback.memory, {} if self._chosen is None else self._chosen.extras
        if memory is not None and "ids" in extras:
            step = self.trainer.fit_loop.epoch_loop.total_batch_idx
            memory.trained(extras["ids"], self._step.heard, step, None if self.callback.refill else memory.sent)
        self._chosen = self._step.heard = None  # free their memory
        if self._scorer.reused is not None:
            self._scorer.reused.drop()
        return True

    # ------------------------------------------------------------------ before the step

    def _choose(self, batch: Any, batch_idx: int) -> bool:
        self._arrived, self._looks = True, False
        self._watch.start()
        callback, memory = self.callback, self.callback.memory
        n = self.candidates = count_rows(batch, self._batch_size)
        self._ids, self.selection, self._step.heard = None, None, None
        if memory is not None:
            self._ids, self.selection = memory.arrive(self.trainer, batch, batch_idx, n)
            self.candidates = n if self._ids is None else len(self._ids)
        arrived = batch
        excluded = None if callback.ratings is None else callback.ratings.excluded
        if excluded is not None:
            fewest = min(self._minimum, n)
            batch, n = self._without(excluded, batch, n)
            if not self._agree(n >= fewest):
                return self._skip()
        callback.counters.seen += self.candidates
        # A pass without backward (StochasticWeightAveraging) gathers batch statistics: those of all rows.
        passive = cast("Any", self.trainer.fit_loop)._skip_backward
        self._looks = callback.phase.active(self.trainer) and not passive
        if self._looks and self._auto is not None:
            self._auto.begin(self.trainer)
        selects = self._looks and (self._auto is None or self._auto.selects)
        self._selecting = self.selection is not None or selects
        if self._selecting and not self._selected:
            self._selected = True
            if self.candidates and (not callback.across_ranks or self.trainer.world_size == 1):
                warn_of_whole_batches(callback.selector, self.candidates, self._least)
        progress, epochs = callback.phase.progress(self.trainer), callback.phase.epochs(self.trainer)
        callback.selector.at(progress, self.trainer.current_epoch, epochs)
        known = self._scorer.know(
            batch, batch_idx, n, self._ids, selecting=self._selecting, chosen=self.selection is not None
        )
        self._watch.lap("scoring_seconds")
        # A step that returned None declined the batch: it gets the chance to do so again.
        selectable = self._selecting and known is not None and n > 0
        self._chosen = self._select(batch, n, known or {}) if selectable else Chosen(batch, n, present(ids=self._ids))
        if self.selection is not None and "ratings" in callback.selector.needs:
            count_kept(callback, known or {}, self._ids, self.selection, self.candidates)
        self._watch.lap("selection_seconds")
        if callback.proxy is not None and self._chosen is not None:  # before the step, which may change the batch
            callback.proxy.step(self._chosen.batch, self._chosen.rows)
            self._watch.lap("scoring_seconds")
        callback.skipped = self._chosen is None
        if self._chosen is None:
            return self._skip()
        if self._chosen.batch is not arrived:
            results: Any = cast("Any", self.trainer)._results  # so that self.log weighs by the rows that are trained
            results.batch, results.batch_size = self._chosen.batch, None
        return True

    @property
    def _accumulates(self) -> bool:
        """Whether no batch can be skipped: the first of several clears gradients, the last makes the step."""
        return self.module.automatic_optimization and self.trainer.accumulate_grad_batches > 1

    def _skip(self) -> bool:
        """Leave out a batch.

        Raises:
            RuntimeError: while gradients are accumulated.
        """
        self.callback.skipped = True
        if self._accumulates:
            raise RuntimeError(
                f"A batch of {self.candidates} rows has too few that may be trained, and none can be left out while "
                f"gradients are accumulated (accumulate_grad_batches={self.trainer.accumulate_grad_batches}): those of "
                "a step would be lost, or applied twice. Enlarge the batches, or accumulate nothing."
            )
        return False

    def _without(self, excluded: Tensor, batch: Any, n: int) -> tuple[Any, int]:
        """The batch less its rows that are held out."""
        assert self._ids is not None  # whoever excludes rows asks for a ledger
        rows = torch.isin(self._ids, excluded.to(self._ids.device), invert=True).nonzero().squeeze(1)
        if len(rows) == n:
            return batch, n
        self._ids, self.candidates = self._ids[rows], len(rows)
        return take_rows(batch, rows, n), len(rows)

    def _select(self, batch: Any, n: int, known: dict[str, Any]) -> Chosen | None:
        callback, factor = self.callback, 1.0
        least = min(self._least, n)
        drops = callback.nonfinite == "drop" and not callback.refill  # a rank may have too few rows left: all skip
        if self.selection is not None:  # before it was loaded
            if drops and not self._agree(True):
                self.selection = None
                return None
            return self._take(batch, n, self.selection, factor, loaded=True)
        if callback.across_ranks and self.trainer.world_size > 1:
            losses = known.get("losses", torch.zeros(n, device=self.module.device))
            share = select_share(
                lambda everyone: self._call_selector({"losses": everyone} if known else {}, everyone.numel()),
                losses,
                self._rank,
                least,
            )
            if share is None:
                return None
            selection, factor = share.selection, share.factor
        else:
            selection = self._call_selector(known, n)
            if len(selection) < least and not drops and self._accumulates:
                everyone = torch.ones(n, dtype=torch.bool, device=selection.indices.device)
                selection = cast("Selection", topped_up(callback.selector, selection, least, everyone))
            freely = (callback.selector.probabilistic or drops) and not callback.refill
            if freely and not self._agree(len(selection) >= least):
                return None
        self.selection = selection
        return self._take(batch, n, selection, factor)

    def _take(self, batch: Any, n: int, selection: Selection, factor: float, *, loaded: bool = False) -> Chosen | None:
        """The chosen rows, or the batch itself where it is `loaded` with nothing else."""
        ids = None if self._ids is None else self._ids[selection.indices.to(self._ids.device, non_blocking=True)]
        extras = present(weights=selection.weights, ids=ids)
        if self.callback.refill and self.callback.selector.weighted:  # whose queue holds rows with and without weights
            extras = {"weights": torch.ones(len(selection)), **extras}
        extras = {name: values.to(self.module.device, non_blocking=True) for name, values in extras.items()}
        if self.callback.refill:
            return self._refill(batch, n, torch.arange(len(selection)) if loaded else selection.indices, extras)
        if loaded or (len(selection) == n and selection.weights is None and factor == 1):
            return Chosen(batch, n, extras)  # the very object: training is what it would be without selection
        return Chosen(take_rows(batch, selection.indices, n), len(selection), extras, factor)

    def _call_selector(self, known: dict[str, Any], n: int) -> Selection:
        selector, memory, epoch = self.callback.selector, self.callback.memory, self.trainer.current_epoch
        if epoch and memory is not None and memory.frozen and not self.callback.across_ranks:
            selector.default_seed = memory.seed  # choices before loading may have left the stream anywhere
            selector.draw_for(epoch, self.trainer.fit_loop.epoch_loop.batch_idx)
        k = max(selector.count(n), min(self._least, n))
        if not known or not selector.needs:
            return selector(candidates=n, k=k)
        return select_finite(selector, known, k, self.callback.nonfinite)

    def _refill(self, batch: Any, n: int, rows: Tensor, extras: dict[str, Tensor]) -> Chosen | None:
        """Collect the chosen rows; answer with a full training batch once every rank has one."""
        queue = self.callback.queue
        check_accumulation(self.callback, self.trainer)  # again: it can be scheduled
        size = self.callback.training_batch_size = max(self.callback.training_batch_size, n)
        columns = {
            name: values.new_zeros(n).index_copy(0, rows.to(values.device), values) for name, values in extras.items()
        }
        candidates = (batch, columns) if columns else (batch,)
        if rows.numel():  # otherwise it may be a row that stands in for none
            queue.push(candidates, n, rows)
        if self._agree(len(queue) >= size):
            full, *found = queue.pop(size, candidates, n)
            return Chosen(full, size, *found or [{}])
        dropped = queue.dropped
        queue.limit(_QUEUE_LIMIT * size)
        if queue.dropped and not dropped:
            warnings.warn(
                f"Rank {self.trainer.global_rank} has chosen more than {_QUEUE_LIMIT} training batches of rows for "
                "which another rank has no counterpart: the oldest are dropped. Shuffle the data over ranks, or "
                "train without refill.",
                stacklevel=2,
            )
        return None

    def _agree(self, ready: bool) -> bool:
        """Whether all ranks are ready: either every rank steps or none does."""
        if self.trainer.world_size == 1:
            return ready
        return all_ready(ready, self.trainer.strategy.root_device)

    # ------------------------------------------------------------------ the step

    def _train(self, training_step: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if self._scorer.reused is not None:
            training_step = self._scorer.reused.around(training_step, self.selection, self.candidates)
        return self._step(training_step, args, cast("Chosen", self._chosen))

    def look_at_loss(self, loss: Tensor) -> None:
        """While all rows are trained there are no scores: a NaN in any row shows in the loss."""
        callback = self.callback
        if not self._selecting and callback.selector.needs and callback.nonfinite == "raise":
            self.guard.look(loss.detach(), "the training loss (no rows are selected now)")
