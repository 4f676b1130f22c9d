"""When rows are chosen that are chosen before loading."""

from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def chosen_in_turns(steps: int) -> Generator[None]:
    """Inside, choices are made for one turn of timed steps in a row, and the step before it that is not timed.

    In use they are made for many more, so that few turns would bear the cost of all. Each bears its own here, and
    more than its share: fewer in a row take longer each.

    Args:
        steps: that are timed; 0 lets every step make its own.
    """
    with patch("litselect.callbacks.tapped_sampler._AHEAD", steps + 1):
        yield
