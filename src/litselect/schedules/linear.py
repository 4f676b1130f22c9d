"""Linear decay."""

from __future__ import annotations

from litselect.schedules.schedule import Schedule


class Linear(Schedule):
    """Falls from 1 to 0 in a straight line."""

    def after_warmup(self, progress: float) -> float:
        """1 - progress."""
        return 1 - progress
