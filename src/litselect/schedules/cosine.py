"""Cosine decay.

Loshchilov & Hutter, 2016, "SGDR: Stochastic Gradient Descent with Warm Restarts", https://arxiv.org/abs/1608.03983
(without restarts).
"""

from __future__ import annotations

import math

from litselect.schedules.schedule import Schedule


class Cosine(Schedule):
    """Falls from 1 to 0 along half a cosine."""

    def after_warmup(self, progress: float) -> float:
        """(1 + cos(pi progress)) / 2."""
        return (1 + math.cos(math.pi * progress)) / 2
