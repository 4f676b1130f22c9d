"""Four counts that say what a training run has cost."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Tally:
    """What has been done so far.

    Attributes:
        seen: candidates that came from the DataLoader.
        scored: rows that went through a scoring pass.
        trained: rows that were trained on.
        steps: optimizer steps.
    """

    seen: int = 0
    scored: int = 0
    trained: int = 0
    steps: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))

    def shared(self, among: float) -> "Tally":
        """The part of each of `among` runs, in whole numbers."""
        return Tally(*(round(mine / among) for mine in astuple(self)))
