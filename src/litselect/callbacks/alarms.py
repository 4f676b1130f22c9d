"""Warnings about what selection does to the data set."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int

    from litselect.scoring import Ledger

_PATIENCE: Final = 5  # epochs before anything is said
_GAP: Final = 10.0  # times the mean time between two visits: of uniform draws, one in 20,000 takes longer
_FORGOTTEN: Final = 0.01  # share of the data set
_CLASS_SHARE: Final = 0.1  # of what a class would get if all were treated alike
_CONCENTRATION: Final = 0.9  # share of the visits that goes to a tenth of the examples
_SPREAD: Final = 1e-3  # of the middle 80% of the losses, relative to their median


class Alarms:
    """Looks at a ledger when an epoch ends, and warns once of each of four things.

    - Examples that have not been trained for more than ten times the mean gap between visits.
    - A class that is trained less than a tenth as often as the others.
    - Visits that go to a few examples.
    - Losses that are all alike, so that selection is chance.

    Cost: a few operations over the data set an epoch.
    """

    def __init__(self) -> None:
        self._epochs = 0  # of selection
        self._last = torch.zeros(0, dtype=torch.int16)  # the epoch in which an example was last trained
        self._visits = torch.zeros(0, dtype=torch.int16)  # how often until the last epoch's end
        self._first = torch.zeros(0, dtype=torch.int16)  # and before selection began
        self._said: set[str] = set()

    def look(self, ledger: Ledger, labels: Int[Tensor, " size"] | None, keep: float, *, selecting: bool) -> None:
        """Take notice of an epoch that has ended.

        Args:
            ledger: after that epoch.
            labels: each example's class, -1 where it is not known.
            keep: share of the data set that is trained an epoch.
            selecting: whether rows were selected in it.
        """
        trained = ledger.trained.cpu()
        self._reach(len(trained))
        if not selecting:
            self._first = trained.clone()
        else:
            self._epochs += 1
        self._last[trained != self._visits] = self._epochs
        self._visits = trained.clone()
        if self._epochs < _PATIENCE or keep >= 1:
            return
        met = ledger.seen.cpu() > 0  # a sampler may leave some out for good
        visits = (trained - self._first).long()[met]
        self._look_at_gaps(met, keep)
        self._look_at_concentration(visits, keep)
        if labels is not None:
            self._look_at_classes(visits, labels.cpu()[met])
        self._look_at_spread(ledger)

    def _look_at_gaps(self, met: Tensor, keep: float) -> None:
        gap = _GAP / keep
        left = (self._epochs - self._last[met].long() > gap).double().mean().item()
        if left > _FORGOTTEN:
            self._say(
                "gaps",
                f"{left:.0%} of the examples have not been trained for more than {gap:.0f} epochs. A `floor`, or "
                "Mixture(selector, uniform=0.1), sees to it that none is forgotten.",
            )

    def _look_at_concentration(self, visits: Tensor, keep: float) -> None:
        top = visits.sort(descending=True).values[: -(-len(visits) // 10)].sum().item()
        total = visits.sum().item()
        if keep > 0.1 and total and top / total > _CONCENTRATION:
            self._say(
                "concentration",
                f"{top / total:.0%} of all training goes to a tenth of the examples. A `floor`, or Mixture(selector, "
                "uniform=0.1), spreads it; NoiseGuard(selector) helps where those are mislabelled.",
            )

    def _look_at_classes(self, visits: Tensor, labels: Tensor) -> None:
        known = labels >= 0
        if not known.any():
            return
        sizes = torch.bincount(labels[known]).double()
        rates = torch.bincount(labels[known], visits[known].double()) / sizes.clamp_min(1)
        mean = visits[known].double().mean()
        starved = ((rates < _CLASS_SHARE * mean) & (sizes > 0)).nonzero().squeeze(1)
        if len(starved):
            shown = ", ".join(str(int(label)) for label in starved[:5])
            self._say(
                "classes",
                f"Classes {shown} are trained less than a tenth as often as the others. Stratified(selector) keeps the "
                "shares of the classes.",
            )

    def _look_at_spread(self, ledger: Ledger) -> None:
        losses = ledger.loss[~ledger.loss.isnan()].cpu()
        if len(losses) < 10:
            return
        ranked = losses.sort().values
        low, middle, high = (ranked[int(share * (len(ranked) - 1))].item() for share in (0.1, 0.5, 0.9))
        if high - low <= _SPREAD * abs(middle):
            self._say(
                "spread",
                f"The losses are all alike (the middle 80% lie between {low:.4g} and {high:.4g}), so what is selected "
                "is chance. Check that the module learns, or train without selection.",
            )

    def _say(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warnings.warn(message, stacklevel=2)

    def _reach(self, size: int) -> None:
        missing = size - len(self._last)
        if missing > 0:
            self._last, self._visits, self._first = (
                torch.cat([values, values.new_zeros(missing)]) for values in (self._last, self._visits, self._first)
            )

    def state_dict(self) -> dict[str, Any]:
        """What was noted and said."""
        return {
            "epochs": self._epochs,
            "last": self._last.clone(),
            "visits": self._visits.clone(),
            "first": self._first.clone(),
            "said": sorted(self._said),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._epochs, self._said = state["epochs"], set(state["said"])
        self._last, self._visits, self._first = (state[name].clone() for name in ("last", "visits", "first"))
