"""No decay."""

from __future__ import annotations

from litselect.schedules.schedule import Schedule


class Constant(Schedule):
    """Stays at 1 after the warm-up, if any."""

    def after_warmup(self, progress: float) -> float:
        """Always 1."""
        return 1.0
