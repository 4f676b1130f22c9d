"""What a rater sees of a batch while an inner model trains on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from litselect.scoring.loss_observer import LossObserver
from litselect.scoring.meta_gradients import InnerState, LossObjective
from litselect.scoring.meta_gradients.private_streams import seeded
from litselect.scoring.raters.fields import Fields
from litselect.scoring.raters.rate import asks_for, rate
from litselect.scoring.raters.statistics import statistics_of


class RaterView:
    """Rates batches, see `litselect.scoring.meta_gradients.window.Rate`.

    Cost: the rater's forward pass; one of the inner model, too, for a rater that looks at its statistics.

    Args:
        rater: see `rate`.
        fields: finds inputs, targets and ids in a batch.
        objective: of the inner model.
    """

    def __init__(self, rater: nn.Module, fields: Fields, objective: LossObjective) -> None:
        self._rater, self._fields, self._objective = rater, fields, objective
        self.follows_model = "statistics" in asks_for(rater)

    def __call__(self, batch: Any, state: InnerState) -> Tensor:
        """The ratings of a batch, for the model as it is at `state`."""
        known: dict[str, Any] = dict(self._fields(batch))
        if self.follows_model:
            known["statistics"] = self._statistics(batch, state)
        return rate(self._rater, known)

    def _statistics(self, batch: Any, state: InnerState) -> Tensor:
        n = len(next(iter(self._fields(batch).values())))
        observer = LossObserver(n)
        with torch.no_grad(), seeded(state.steps, state.parameters[0].device):
            losses = observer.watch(lambda: self._objective.losses(state.parameters, state.cloned_buffers(), batch))
        if observer.logits is None or observer.targets is None:
            raise ValueError(
                f"{type(self._rater).__name__} looks at the statistics of a classifier, which are read off the "
                f"cross-entropy that loss_fn computes, but it computes none over {n} rows of logits. Use "
                "torch.nn.functional.cross_entropy, or a rater that looks at the inputs."
            )
        return statistics_of(losses, observer.logits, observer.targets)
