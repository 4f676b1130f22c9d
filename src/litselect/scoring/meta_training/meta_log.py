"""What meta-training writes down."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from litselect.scoring.meta_gradients import MetaGradient, Window
from litselect.scoring.raters.fields import Fields
from litselect.scoring.raters.kept_labels import KeptLabels


class MetaLog:
    """Collects what each inner model found in a meta-step, and sums it up.

    Args:
        fields: finds the labels in a batch.

    Attributes:
        history: for each meta-step, means over the inner models of ``outer_loss``; ``rating_std`` in a batch (a dead
            rater shows here); ``gradient_norm`` before clipping; ``agreement``, the correlation of ratings with what
            the look-ahead says of their examples, before the rater learns of it.
        labels: share of the weight that each class gets, where there are class labels.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self.history: list[dict[str, float]] = []
        self.labels = KeptLabels()
        self._present: list[dict[str, float]] = []

    def note(self, window: Window, found: MetaGradient, norm: Tensor) -> None:
        """Take notice of what one inner model found."""
        ratings = torch.cat(found.ratings).detach()
        self._present.append(
            {
                "outer_loss": float(found.loss),
                "rating_std": float(ratings.std(correction=0)),
                "gradient_norm": float(norm),
                "agreement": fmean(map(agreement, found.ratings, found.influences)),
            }
        )
        for batch, weights in zip(window.batches, found.weights, strict=True):
            targets = self._fields(batch).get("targets")
            if targets is not None and targets.ndim == 1 and not targets.is_floating_point():
                self.labels.update(targets, weights)

    def step(self) -> dict[str, float]:
        """Sum up the meta-step."""
        self.history.append({name: fmean(found[name] for found in self._present) for name in self._present[0]})
        self._present = []
        return self.history[-1]

    def shown(self) -> dict[str, str]:
        """The newest line, for a progress bar."""
        newest = self.history[-1]
        line = {"outer": f"{newest['outer_loss']:.3f}", "spread": f"{newest['rating_std']:.3f}"}
        return {**line, "labels": f"[{self.labels}]"} if len(self.labels.seen) else line

    def state_dict(self) -> dict[str, Any]:
        """History and histogram."""
        return {"history": self.history, "labels": self.labels.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.history = list(state["history"])
        self.labels.load_state_dict(state["labels"])


def agreement(ratings: Tensor, influences: Tensor) -> float:
    """The correlation of ratings with minus the derivative of the held-out loss; 0 where either is constant."""
    a, b = ratings.detach().double(), -influences.detach().double()
    a, b = a - a.mean(), b - b.mean()
    scale = (a @ a * (b @ b)).sqrt()
    return float(a @ b / scale) if scale > 0 else 0.0
