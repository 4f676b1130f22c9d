"""Scores of a batch, from wherever they come."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from litselect.callbacks.batch_sizes import fewest_rows
from litselect.callbacks.finite_guard import FiniteGuard
from litselect.callbacks.nonfinite import looked_up
from litselect.callbacks.quiet import quiet
from litselect.callbacks.reused_forward import ReusedForward
from litselect.scoring import CaptureError, Scores, ScoringPass
from litselect.scoring.capture_check import REMEDY
from litselect.scoring.no_trace import TraceMemory
from litselect.scoring.predictions import predictions
from litselect.scoring.rows import take_rows

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection

_CHECKS = 10  # batches after which a check that settles nothing (of two rows, say) is given up


class Scorer:
    """Scores candidates by a scoring pass, by the ledger, or by both.

    Args:
        callback: settings, counters and ledger.
        trainer: the Trainer.
        module: the network, unwrapped.
        guard: looks at the scores of a pass.

    Attributes:
        scores: of the newest batch, where all of it went through a scoring pass that counts.
    """

    def __init__(
        self, callback: ExampleSelection, trainer: Trainer, module: LightningModule, guard: FiniteGuard
    ) -> None:
        self._callback, self._trainer, self._module, self._guard = callback, trainer, module, guard
        self.scores: Scores | None = None
        self.reused = ReusedForward(callback, trainer, module, fewest_rows(module)) if callback.reuse_forward else None
        self._wants: frozenset[str] = frozenset()
        self._memory = TraceMemory()
        self._selecting = False
        self._arguments: tuple[str, ...] | None = None  # the names of what training_step takes

    def know(
        self, batch: Any, batch_idx: int, n: int, ids: Tensor | None, *, selecting: bool, chosen: bool
    ) -> dict[str, Any] | None:
        """What is known of the candidates, by the names under which selectors take it.

        Args:
            batch: the candidates.
            batch_idx: for the training step.
            n: how many rows.
            ids: of the candidates, where they are remembered.
            selecting: whether rows are selected from this batch.
            chosen: whether they have been, before the batch was loaded.

        Returns:
            The tensors, none where the selector looks at none; or ``None`` where the step declined the batch.
        """
        rater, wants = self._callback.ratings, self._callback.selector.wants
        selects = selecting and not chosen
        if rater is None:
            return self._know(batch, batch_idx, n, ids, selecting=selecting, chosen=chosen, wants=wants)
        found = rater.labels_in(batch)
        rated = "ratings" in wants
        wants -= {*found, "ratings"} | ({"ids"} if ids is not None else set())
        wants |= rater.needs if rated else frozenset()
        known = self._know(batch, batch_idx, n, ids, selecting=selecting, chosen=chosen, wants=wants)
        if known is None or not (rated and selects):
            return known if known is None else {**found, **known}
        ratings = rater.rate(batch, ids, known)
        if self._callback.nonfinite == "raise":
            self._guard.look(ratings, f"the ratings of batch {batch_idx}")
        given = {} if ids is None else {"ids": ids}
        return {**given, **found, **known, "ratings": ratings}

    def _know(
        self,
        batch: Any,
        batch_idx: int,
        n: int,
        ids: Tensor | None,
        *,
        selecting: bool,
        chosen: bool,
        wants: frozenset[str],
    ) -> dict[str, Any] | None:
        """What a scoring pass or the ledger knows, ratings left out."""
        callback, memory = self._callback, self._callback.memory
        looks, self._selecting = bool(wants), selecting
        self.scores, self._wants = None, wants
        if memory is None or ids is None:
            if not looks or (callback.verified and not selecting):
                return {}
            self.scores = self._score(batch, batch_idx, n)
            return None if self.scores is None else self.scores.given()
        memory.see(ids)
        source = memory.plan.source(self._trainer.current_epoch, batch_idx)
        chooses = looks and selecting and not chosen
        checks = not callback.verified and (looks or memory.plan.overhears) and (source == "ledger" or not chooses)
        if checks and not (callback.scoring.mode == "train" and n < fewest_rows(self._module)):
            self._score(batch, batch_idx, n, counted=False)  # a check of the capture, whose scores no one needs
        if not chooses:
            return {}
        rows = memory.outdated(ids) if source == "aged" else None
        if source == "ledger" or (rows is not None and not len(rows)):
            return memory.recall(ids, looked_up(callback.selector, callback.nonfinite))
        if rows is not None and len(rows) == 1 and callback.scoring.mode == "train" and fewest_rows(self._module) > 1:
            rows = None  # one row has no batch statistics: all are scored
        if rows is None:
            scores = self.scores = self._score(batch, batch_idx, n)
        else:
            scores = self._score(take_rows(batch, rows, n), batch_idx, len(rows))
        if scores is None:
            return None
        return memory.refreshed(
            ids, rows, scores, self._trainer.fit_loop.epoch_loop.total_batch_idx, callback.selector.needs
        )

    def _score(self, batch: Any, batch_idx: int, n: int, *, counted: bool = True) -> Scores | None:
        """Losses of `n` rows; on the first batch, checked to belong to their rows."""
        callback, trainer, module = self._callback, self._trainer, self._module
        if self._arguments is None:  # found out once: Lightning inspects the signature
            self._arguments = tuple(cast("Any", trainer.fit_loop.epoch_loop)._build_kwargs(OrderedDict(), batch, 0))
        names = self._arguments

        def step(candidates: Any) -> Any:
            return module.training_step(*(candidates if name == "batch" else batch_idx for name in names))

        manual = not module.automatic_optimization
        source: dict[str, Any] = {
            "step": step, "loss_fn": callback.loss_fn, "gradients": manual, "memory": self._memory,
        }  # fmt: skip
        scoring, unchecked = self.reused or callback.scoring, not callback.verified
        with quiet(trainer, module), trainer.precision_plugin.train_step_context():
            scores = self._examined(scoring, batch, n, source, counted=counted)
        if scores is None and manual:
            raise CaptureError(
                f"{type(module).__name__} optimizes manually, but its training_step ended before a backward was seen. "
                "Call `self.manual_backward(loss)`, or define `example_losses(self, batch)`."
            )
        if scores is not None and (missing := _missing(scores, self._wants, looks=unchecked)):
            raise CaptureError(
                f"{callback.selector!r} needs {' and '.join(missing)}, which are read off the cross-entropy that "
                f"training_step computes, but {type(module).__name__} computes none over {n} rows of logits (or has "
                "`example_losses`). Use torch.nn.functional.cross_entropy, or a selector that looks at losses."
            )
        if scores is not None and callback.nonfinite == "raise":
            self._guard.look(scores.losses, f"the scores of batch {batch_idx}")
        return scores

    def _examined(
        self, scoring: ScoringPass | ReusedForward, batch: Any, n: int, source: dict[str, Any], *, counted: bool
    ) -> Scores | None:
        """The scores of `_score`, after what can be checked of them."""
        callback, memory = self._callback, self._callback.memory
        try:
            if callback.auto is not None and callback.auto.phase == "options" and self._selecting:
                scores = self._score_in_all_ways(batch, n, source)
            else:
                scores = scoring.examine(self._module, batch, n, **source)
                callback.counters.scored += n * counted
            if scores is not None and not callback.verified:
                callback.checks += 1
                settled = scoring.verify(self._module, batch, n, scores.losses, **source)
                callback.verified = settled or callback.checks == _CHECKS
                if memory is not None:
                    memory.doubts.look(scores)
        except CaptureError as error:
            if REMEDY not in str(error) or memory is None or not memory.plan.overhears:
                raise
            raise CaptureError(f"{error} Beside either pass rescore_every=2: no step can be overheard.") from error
        return scores

    def _score_in_all_ways(self, batch: Any, n: int, source: dict[str, Any]) -> Scores | None:
        """Scores of the full pass, while others are compared with it."""
        callback = self._callback

        def score(scoring: ScoringPass) -> Scores | None:
            scores = scoring.examine(self._module, batch, n, **source)
            callback.counters.scored += n
            return scores

        assert callback.auto is not None
        return callback.auto.measure(score, callback.selector.count(n), self._module.device)


def _missing(scores: Scores, wants: frozenset[str], *, looks: bool) -> list[str]:
    """What a selector wants of the logits, and these scores can't tell; confidences are computed where one `looks`."""
    missing = (wants & {"logits", "targets"}) - scores.given().keys()
    if looks and "confidences" in wants and predictions(scores) is None:
        missing |= {"confidences"}
    return sorted(missing)
