"""Whether inner models learn at all."""

from __future__ import annotations

import math
from statistics import fmean, variance
from typing import Any, Final

_LEAST: Final = 8  # losses of a life that tell anything


class LearningCheck:
    """Compares the held-out losses at the beginning and the end of each life, and raises if they do not fall.

    Meta-gradients of models that stay at their initialisation are noise with a gradient's shape: the rater then learns
    what random networks like, and nothing else shows it.

    Args:
        population: number of models.
    """

    def __init__(self, population: int) -> None:
        self._losses: list[list[float]] = [[] for _ in range(population)]
        self._falls: list[tuple[float, float]] = []  # of ended lives: by how much, and the variance of that

    def note(self, place: int, loss: float) -> None:
        """A held-out loss of a living model."""
        self._losses[place].append(loss)

    def ended(self, place: int) -> None:
        """A life is over."""
        losses, self._losses[place] = self._losses[place], []
        if len(losses) >= _LEAST:
            self._falls.append(_fall(losses))

    def look(self) -> None:
        """Judge the lives that are over, and those that are old enough.

        Raises:
            RuntimeError: if they show no decline beyond twice its standard error.
        """
        falls = self._falls + [_fall(losses) for losses in self._losses if len(losses) >= _LEAST]
        if not falls:
            return
        mean, error = fmean(fall for fall, _ in falls), math.sqrt(sum(v for _, v in falls)) / len(falls)
        if not mean > 2 * error:
            raise RuntimeError(
                "A rater learns from inner models that learn, but the held-out loss of these fell by "
                f"{mean:.2g} ± {error:.2g} over {len(falls)} lives. Raise the learning rate of the inner optimizer or "
                "the lifetime, or check loss_fn and inner_factory. If the models come trained, pass "
                "require_learning=False."
            )

    def state_dict(self) -> dict[str, Any]:
        """All losses."""
        return {"losses": self._losses, "falls": [list(fall) for fall in self._falls]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._losses = [list(losses) for losses in state["losses"]]
        self._falls = [(fall, spread) for fall, spread in state["falls"]]


def _fall(losses: list[float]) -> tuple[float, float]:
    """By how much the last quarter of a life is below the first, and the variance of that."""
    quarter = max(2, len(losses) // 4)
    first, last = losses[:quarter], losses[-quarter:]
    return fmean(first) - fmean(last), (variance(first) + variance(last)) / quarter
