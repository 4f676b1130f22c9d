"""How much of the training is over, in whole epochs."""

from __future__ import annotations

from math import floor


def elapsed(share: float, epoch: int, epochs: int | None, progress: float) -> bool:
    """Whether `share` of the training is over.

    With a known number of epochs that is so from epoch ``floor(share * epochs)`` on (the first is 0): an integer, so
    that the change comes at the beginning of an epoch, and comes at all. (A published implementation waits for an epoch
    to *equal* ``share * epochs``, which for most numbers of epochs none does.) Otherwise `progress` decides.

    Args:
        share: in [0, 1].
        epoch: epochs that are done.
        epochs: of so many; ``None`` if that is not known.
        progress: share of the training that is done.

    >>> [elapsed(0.875, epoch, 9, progress=0.0) for epoch in (6, 7, 8)]
    [False, True, True]
    """
    if epochs is None:
        return progress >= share
    return epoch >= floor(round(share * epochs, 6))  # 0.1 of 10 must not be 0.9999...
