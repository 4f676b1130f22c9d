"""Whether inner models learn at all."""

from __future__ import annotations

import math
from statistics import fmean, variance
from typing import Any, Final

_LEAST: Final = 8  # losses of a life that tell anything
_ENOUGH: Final = 100  # losses in all after which a run may be stopped before its end

_Fall = tuple[float, float]  # by how much the loss fell, and the variance of that


class LearningCheck:
    """Compares held-out losses at the beginning and later in each life, and raises if they do not fall.

    Meta-gradients of models that stay at their initialisation are noise with a gradient's shape: the rater then learns
    what random networks like, and nothing else shows it.

    Models that learn slowly show it between the first quarter of a life and the last; those that learn fast and then
    overfit, between the first sixteenth and the rest. Either will do.

    Args:
        population: number of models.
    """

    def __init__(self, population: int) -> None:
        self._losses: list[list[float]] = [[] for _ in range(population)]
        self._falls: list[tuple[_Fall, _Fall]] = []  # of ended lives
        self._seen = 0

    def note(self, place: int, loss: float) -> None:
        """A held-out loss of a living model."""
        self._losses[place].append(loss)
        self._seen += 1

    def ended(self, place: int) -> None:
        """A life is over."""
        losses, self._losses[place] = self._losses[place], []
        if len(losses) >= _LEAST:
            self._falls.append(_falls(losses))

    def look(self, *, last: bool = False) -> None:
        """Judge the lives that are over, and those that are old enough.

        Args:
            last: whether there is no more to come; before, few losses are not judged.

        Raises:
            RuntimeError: if they show no decline beyond twice its standard error.
        """
        lives = self._falls + [_falls(losses) for losses in self._losses if len(losses) >= _LEAST]
        if not lives or (self._seen < _ENOUGH and not last):
            return
        slow, fast = (_mean([life[kind] for life in lives]) for kind in (0, 1))
        if all(fall <= 2 * error for fall, error in (slow, fast)):
            raise RuntimeError(
                "A rater learns from inner models that learn, but the held-out loss of these fell by "
                f"{slow[0]:.2g} ± {slow[1]:.2g} over {len(lives)} lives. Raise the learning rate of the inner "
                "optimizer or the lifetime, or check loss_fn and inner_factory. If the models come trained, pass "
                "require_learning=False."
            )

    def state_dict(self) -> dict[str, Any]:
        """All losses."""
        return {"losses": [list(losses) for losses in self._losses], "falls": list(self._falls), "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._losses = [list(losses) for losses in state["losses"]]
        self._falls, self._seen = list(state["falls"]), state["seen"]


def _falls(losses: list[float]) -> tuple[_Fall, _Fall]:
    quarter, start = max(2, len(losses) // 4), max(2, len(losses) // 16)
    return _fall(losses[:quarter], losses[-quarter:]), _fall(losses[:start], losses[start:])


def _fall(before: list[float], after: list[float]) -> _Fall:
    return fmean(before) - fmean(after), variance(before) / len(before) + variance(after) / len(after)


def _mean(falls: list[_Fall]) -> tuple[float, float]:
    """The mean fall, and its standard error."""
    return fmean(fall for fall, _ in falls), math.sqrt(sum(v for _, v in falls)) / len(falls)
