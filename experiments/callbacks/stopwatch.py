"""Measures what lies between start and stop, again and again."""

from collections.abc import Callable


class Stopwatch:
    """Adds up the time that passes while it runs.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """The sum so far."""
        return self._spent + (0.0 if self._started is None else self._clock() - self._started)

    def start(self) -> None:
        """Runs from now on; a start while it runs begins the current stretch anew."""
        self._started = self._clock()

    def stop(self) -> None:
        """Holds the sum until the next start."""
        self._spent, self._started = self.seconds, None
