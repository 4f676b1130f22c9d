"""How many processor threads an operation is spread over."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from experiments.errors import UsageError

WORTH_SPREADING = 10**8  # operations in a training step; below, threads wait for each other longer than they work


@contextmanager
def threads(number: int | str, step: int) -> Iterator[None]:
    """Sets torch's threads, and restores them at the end.

    On shared cores a small step on all threads can take ten times longer than on one, as each operation ends when the
    last thread has had its turn.

    Args:
        number: how many, or "auto": one for a step too small to be worth spreading, else torch's own choice.
        step: operations in a training step.

    Raises:
        UsageError: `number` is neither "auto" nor at least 1.
    """
    before = torch.get_num_threads()
    if number == "auto":
        number = 1 if step < WORTH_SPREADING else before
    if not isinstance(number, int) or number < 1:
        raise UsageError(f"threads must be auto or at least 1, received {number}; set threads=auto")
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
