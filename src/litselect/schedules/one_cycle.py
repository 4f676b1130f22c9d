"""Up, then down.

Smith & Topin, 2017, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
https://arxiv.org/abs/1708.07120
"""

from __future__ import annotations

import math

from litselect.schedules.schedule import Schedule


class OneCycle(Schedule):
    """Rises along a cosine from 1/25 to 1, then falls along another to nearly 0, as `torch.optim.lr_scheduler` does.

    Momentum stays as it is.

    Args:
        peak: share of the budget at which the factor is 1, between 0 and 1.

    Raises:
        ValueError: if `peak` is out of range.
    """

    START, END = 1 / 25, 1 / 25 * 1e-4  # torch's: div_factor, final_div_factor

    def __init__(self, peak: float = 0.3) -> None:
        super().__init__()
        if not 0 < peak < 1:
            raise ValueError(f"schedule.peak must lie between 0 and 1, received {peak}; try 0.3")
        self.peak = peak

    def after_warmup(self, progress: float) -> float:
        """Half a cosine up to `peak`, half a cosine down."""
        if progress < self.peak:
            return _along_cosine(self.START, 1.0, progress / self.peak)
        return _along_cosine(1.0, self.END, (progress - self.peak) / (1 - self.peak))


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
