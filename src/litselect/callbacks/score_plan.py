"""Where the scores of a batch come from: a scoring pass, the ledger, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from litselect.scoring import ScoringPass

Source = Literal["pass", "ledger", "aged"]
"""A pass over all rows, none, or one over the rows whose last known loss is too old."""


REMEMBERED: Final = frozenset({"ids", "percentiles", "confidences", "ages"})
"""What only a ledger knows."""

REMEDY: Final = "Score every batch instead: scoring=ScoringPass()."


@dataclass
class ScorePlan:
    """Says for each epoch where scores come from.

    Args:
        free: from the losses that training computed anyway.
        rescore_every: a scoring pass over everything every so many epochs, and the losses of that epoch in between.
        max_age: a scoring pass over the examples whose last known loss is more than so many epochs old; 0 for all.
        every: a scoring pass over every so many batches, others in each epoch, and the last known losses in between.
        keeps: whether a ledger is kept in any case.
        blind: whether the selector looks at nothing, so that no pass is made.
        scored_epoch: the last epoch that was scored from beginning to end, under `rescore_every`.

    Raises:
        ValueError: if a number is out of range, or more than one of the three is asked for.
    """

    free: bool = False
    rescore_every: int = 1
    max_age: int = 0
    every: int = 1
    keeps: bool = False
    blind: bool = False
    scored_epoch: int | None = None

    def __post_init__(self) -> None:
        ages: tuple[Any, ...] = (self.rescore_every, self.max_age)
        if not all(isinstance(age, int) for age in ages) or self.rescore_every < 1 or self.max_age < 0:
            raise ValueError(
                f"Expected rescore_every >= 1 and max_age >= 0, numbers of epochs, but got rescore_every="
                f"{self.rescore_every!r} and max_age={self.max_age!r}. To score every batch pass "
                "scoring=ScoringPass() alone."
            )
        if (self.free + (self.rescore_every > 1) + (self.max_age > 0) + (self.every > 1)) > 1:
            raise ValueError(
                'scoring="ledger", rescore_every > 1, max_age > 0 and ScoringPass(every > 1) are answers to one '
                f"question, where scores come from, but got scoring={'ledger' if self.free else 'a pass'!r}, "
                f"rescore_every={self.rescore_every}, max_age={self.max_age} and every={self.every}. Choose one."
            )

    @classmethod
    def of(cls, scoring: Any, rescore_every: int, max_age: int, keeps: bool, blind: bool) -> ScorePlan:
        """The plan that the settings of a callback ask for.

        Raises:
            TypeError: if `scoring` is nothing of the kind.
        """
        if not (isinstance(scoring, ScoringPass) or scoring in ("ledger", "auto")):
            raise TypeError(
                f'Expected scoring to be a ScoringPass, "ledger" or "auto", but got {scoring!r}. '
                "A pass over every batch is scoring=ScoringPass()."
            )
        every = scoring.every if isinstance(scoring, ScoringPass) else 1
        return cls(scoring == "ledger", rescore_every, max_age, every, keeps, blind)

    @property
    def needs_ledger(self) -> bool:
        """Whether losses have to be remembered."""
        return self.keeps or self.recalls

    @property
    def recalls(self) -> bool:
        """Whether rows are selected by remembered losses, of some batches at least."""
        return self.free or self.rescore_every > 1 or self.max_age > 0 or self.every > 1

    @property
    def overhears(self) -> bool:
        """Whether the losses of trained rows enter the ledger: not those of Stale Selective-Backprop, as published."""
        return self.free or self.max_age > 0 or self.every > 1 or (self.keeps and self.blind)

    def source(self, epoch: int, place: int) -> Source:
        """Where the scores of a batch come from, by its place in the epoch."""
        if self.free:
            return "ledger"
        if self.max_age:
            return "aged"
        if self.every > 1:
            return "pass" if (place + epoch) % self.every == 0 else "ledger"
        stale = self.scored_epoch is not None and 0 < epoch - self.scored_epoch < self.rescore_every
        return "ledger" if stale else "pass"

    def begin_epoch(self, epoch: int, active: bool) -> None:
        """Note whether all of `epoch` is going to be scored: it is if selection is `active` from its beginning."""
        if self.rescore_every > 1 and active and self.source(epoch, 0) == "pass":
            self.scored_epoch = epoch
