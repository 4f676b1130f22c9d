"""Four counts that say what a training run has cost."""

from dataclasses import dataclass


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
