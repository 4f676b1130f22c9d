"""Whether a rater is to be believed."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean, variance
from typing import Any, Final

_WINDOW: Final = 50  # meta-steps


class Trust:
    """Compares ratings with what look-aheads say of examples that the rater has not learned from yet.

    A rater begins at random and is as often wrong as right at first, with a spread that looks like knowledge. Here the
    correlation between its ratings and the benefit of more weight is collected at each meta-step, before the rater
    learns of that batch. It is trusted once the mean of the last fifty exceeds twice its standard error, no longer if
    the mean falls below zero.

    Args:
        after: meta-steps before it can be trusted.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.steps, self.trusted = 0, False
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    @property
    def agreement(self) -> float:
        """Mean of the last fifty correlations."""
        return fmean(self._recent) if self._recent else 0.0

    def note(self, agreement: float) -> None:
        """Take notice of a meta-step."""
        self.steps += 1
        self._recent.append(agreement)
        if self.steps < self.after or len(self._recent) < 2:
            return
        if self.trusted:
            self.trusted = self.agreement >= 0
        else:
            self.trusted = self.agreement > 2 * math.sqrt(variance(self._recent) / len(self._recent))

    def state_dict(self) -> dict[str, Any]:
        """Numbers."""
        return {"steps": self.steps, "trusted": self.trusted, "recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.steps, self.trusted = state["steps"], state["trusted"]
        self._recent = deque(state["recent"], maxlen=_WINDOW)
