"""What a selected step can't cost less than, from parts measured in the same run.

All numbers are fractions of a plain training step of the N candidates.
"""

from collections.abc import Iterable


def of_parts(score: float, step: float, share: float = 1.0) -> float:
    """Scores, then a plain training step of k rows.

    Args:
        score: a bare scoring pass over the N candidates; 0 where scores are known.
        step: plain training of batches of k.
        share: of the batches that are scored.
    """
    return share * score + step


def of_reuse(forward: float, kept: float) -> float:
    """One forward pass of N with its graph, then the rest of the step for k of N.

    Args:
        forward: that pass.
        kept: k / N.
    """
    return forward + (1 - forward) * kept


def of_cheapest(scores: Iterable[float], step: float) -> float:
    """The cheapest of several scoring passes, then plain training of k rows."""
    return min(scores) + step
