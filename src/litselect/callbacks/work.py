"""The work of one batch, in rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """How many rows went through each stage.

    Args:
        seen: candidates.
        load: rows that were loaded: fewer than the candidates where they are chosen before.
        score: rows of a scoring pass.
        select: candidates of which some were chosen; 0 where all are trained unseen.
        train: rows of the training step.
        proxy: rows on which a scoring network was trained.
        rater_trained: rows that a rater's look-aheads sent forward and backward.
        rater_scored: rows that they sent forward alone.
    """

    seen: int = 0
    load: int = 0
    score: int = 0
    select: int = 0
    train: int = 0
    proxy: int = 0
    rater_trained: int = 0
    rater_scored: int = 0
