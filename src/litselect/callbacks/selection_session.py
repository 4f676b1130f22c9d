"""Selection during one call of ``Trainer.fit``."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] - the base of all of them

from litselect.callbacks.finite_guard import FiniteGuard
from litselect.callbacks.loop_patch import LoopPatch
from litselect.callbacks.nonfinite import select_finite
from litselect.callbacks.quiet import quiet
from litselect.callbacks.rank_pool import all_ready, select_share
from litselect.callbacks.requirements import check_accumulation, declared_batch_size
from litselect.callbacks.stopwatch import Stopwatch
from litselect.scoring import CaptureError, LossWeights, Scores
from litselect.scoring.rows import count_rows, take_rows

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection
    from litselect.selectors import Selection

_QUEUE_LIMIT = 4  # training batches that may wait for a slower rank
_CHECKS = 10  # batches after which a check that settles nothing (of two rows, say) is given up


@dataclass(frozen=True)
class Chosen:
    """What the training step gets: a batch of so many rows, their weights and a factor of the loss, if any."""

    batch: Any
    rows: int
    weights: Tensor | None = None
    factor: float = 1.0


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
        self.scores: Scores | None = None  # of the newest batch, for the log
        self.selection: Selection | None = None
        self.candidates = 0
        self._watch = Stopwatch(callback.counters, module.device)
        self._chosen: Chosen | None = None
        self._selecting = False
        self._rank = trainer.global_rank
        self._batch_size = declared_batch_size(trainer)
        self._optimizer_steps = trainer.global_step
        # One row alone crashes batch statistics, to which a plain batch gives no trouble.
        self._minimum = 2 if any(isinstance(child, _BatchNorm) for child in module.modules()) else 1
        self.patch = LoopPatch(trainer, self._choose, self._train, skipped=callback.skipped)

    def close(self) -> None:
        """Put the loops back."""
        self.patch.remove()

    def batch_done(self) -> None:
        """Count what the batch took."""
        self._watch.lap("training_seconds")
        counters = self.callback.counters
        counters.trained += 0 if self._chosen is None else self._chosen.rows
        counters.steps += self.trainer.global_step - self._optimizer_steps
        self._optimizer_steps = self.trainer.global_step
        self._chosen = None  # free its memory

    # ------------------------------------------------------------------ before the step

    def _choose(self, batch: Any, batch_idx: int) -> bool:
        self._watch.start()
        n = self.candidates = count_rows(batch, self._batch_size)
        self.callback.counters.seen += n
        # A pass without backward (StochasticWeightAveraging) gathers batch statistics: those of all rows.
        passive = cast("Any", self.trainer.fit_loop)._skip_backward
        self._selecting = self.callback.phase.active(self.trainer) and not passive
        self.callback.selector.progress = self.callback.phase.progress(self.trainer) or 0.0
        looks = self.callback.selector.wants_scores
        self.scores, self.selection = None, None
        if looks and (self._selecting or not self.callback.verified):
            self.scores = self._score(batch, batch_idx, n)
        self._watch.lap("scoring_seconds")
        # A step that returned None declined the batch: it gets the chance to do so again.
        selectable = self._selecting and (self.scores is not None or not looks)
        self._chosen = self._select(batch, n) if selectable else Chosen(batch, n)
        self._watch.lap("selection_seconds")
        self.callback.skipped = self._chosen is None
        if self._chosen is None:
            return False
        if self._chosen.batch is not batch:
            results: Any = cast("Any", self.trainer)._results  # so that self.log weighs by the rows that are trained
            results.batch, results.batch_size = self._chosen.batch, None
        return True

    def _score(self, batch: Any, batch_idx: int, n: int) -> Scores | None:
        """Losses of all candidates; on the first batch, checked to belong to their rows."""
        callback, trainer, module = self.callback, self.trainer, self.module
        build_arguments = cast("Any", trainer.fit_loop.epoch_loop)._build_kwargs

        def step(candidates: Any) -> Any:
            return module.training_step(*build_arguments(OrderedDict(), candidates, batch_idx).values())

        manual = not module.automatic_optimization
        with quiet(trainer, module), trainer.precision_plugin.train_step_context():
            scores = callback.scoring.examine(module, batch, n, step=step, loss_fn=callback.loss_fn, gradients=manual)
            if scores is not None and not callback.verified:
                callback.checks += 1
                settled = callback.scoring.verify(
                    module, batch, n, scores.losses, step=step, loss_fn=callback.loss_fn, gradients=manual
                )
                callback.verified = settled or callback.checks == _CHECKS
        if scores is None and manual:
            raise CaptureError(
                f"{type(module).__name__} optimizes manually, but its training_step ended before a backward was seen. "
                "Call `self.manual_backward(loss)`, or define `example_losses(self, batch)`."
            )
        if scores is not None and (missing := sorted(callback.selector.wants - scores.given().keys())):
            raise CaptureError(
                f"{callback.selector!r} needs {' and '.join(missing)}, which are read off the cross-entropy that "
                f"training_step computes, but {type(module).__name__} computes none over {n} rows of logits (or has "
                "`example_losses`). Use torch.nn.functional.cross_entropy, or a selector that looks at losses."
            )
        callback.counters.scored += n
        if scores is not None and callback.nonfinite == "raise":
            self.guard.look(scores.losses, f"the scores of batch {batch_idx}")
        return scores

    def _select(self, batch: Any, n: int) -> Chosen | None:
        callback, factor = self.callback, 1.0
        least = 0 if callback.refill else min(self._minimum, n)  # a queue takes what comes: its batches are full
        if callback.across_ranks and self.trainer.world_size > 1:
            losses = torch.zeros(n, device=self.module.device) if self.scores is None else self.scores.losses
            scored = self.scores is not None
            share = select_share(
                lambda everyone: self._call_selector(Scores(everyone) if scored else None, everyone.numel()),
                losses,
                self._rank,
                least,
            )
            if share is None:
                return None
            selection, factor = share.selection, share.factor
        else:
            selection = self._call_selector(self.scores, n)
            freely = callback.selector.probabilistic and not callback.refill
            if freely and not self._agree(len(selection) >= least):
                return None
        self.selection = selection
        if self.callback.refill:
            return self._refill(batch, n, selection)
        if len(selection) == n and selection.weights is None and factor == 1:
            return Chosen(batch, n)  # the very object: training is what it would be without selection
        return Chosen(take_rows(batch, selection.indices, n), len(selection), selection.weights, factor)

    def _call_selector(self, scores: Scores | None, n: int) -> Selection:
        selector = self.callback.selector
        k = max(selector.count(n), min(self._minimum, n))
        if scores is None or not selector.needs:
            return selector(candidates=n, k=k)
        return select_finite(selector, scores, k, self.callback.nonfinite)

    def _refill(self, batch: Any, n: int, selection: Selection) -> Chosen | None:
        """Collect the chosen rows; answer with a full training batch once every rank has one."""
        queue = self.callback.queue
        check_accumulation(self.callback, self.trainer)  # again: it can be scheduled
        size = self.callback.training_batch_size = max(self.callback.training_batch_size, n)
        candidates: tuple[Any, ...] = (batch,)
        if selection.weights is not None:
            candidates = (
                batch,
                selection.weights.new_zeros(n).index_copy(0, selection.indices, selection.weights),
            )
        queue.push(candidates, n, selection.indices)
        if self._agree(len(queue) >= size):
            rows, *weights = queue.pop(size, candidates, n)
            return Chosen(rows, size, *weights)
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
        chosen = cast("Chosen", self._chosen)
        args = (chosen.batch, *args[1:])
        if chosen.weights is not None:
            with torch.compiler.set_stance("force_eager"), LossWeights(chosen.weights) as weights:
                output = training_step(*args)
            declined = output is None and self.module.automatic_optimization
            if not weights.applied and not declined:
                raise CaptureError(
                    f"{self.callback.selector!r} weighs each example's loss, but no loss function of torch was called "
                    "in training_step to weigh. Compute the loss with torch.nn.functional or one of torch's loss "
                    "modules, or use a selector without weights."
                )
            return _scaled(output, chosen.factor)
        return _scaled(training_step(*args), chosen.factor)

    def look_at_loss(self, loss: Tensor) -> None:
        """While all rows are trained there are no scores: a NaN in any row shows in the loss."""
        callback = self.callback
        if not self._selecting and callback.selector.needs and callback.nonfinite == "raise":
            self.guard.look(loss.detach(), "the training loss (no rows are selected now)")


def _scaled(output: Any, factor: float) -> Any:
    """What a training step returned, its loss times `factor`."""
    if factor == 1 or output is None:
        return output
    if isinstance(output, dict):
        results = cast("dict[str, Any]", output)
        return {**results, "loss": results["loss"] * factor}
    return output * factor
