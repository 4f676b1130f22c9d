"""What selection cost and saved, counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litselect.callbacks.check_state import check_state


@dataclass
class Counters:
    """Work done since the training began, on this rank; one that goes on, with its Trainer or a checkpoint, counts on.

    Rows are exact. Seconds are measured on the device that does the work.

    Args:
        seen: candidates that arrived.
        scored: candidates that went through a scoring pass.
        reused: those among the scored whose forward was the training step's, too: nothing was computed for scores.
        trained: rows that went through the training step.
        steps: optimizer steps.
        scoring_seconds: in scoring passes, and in looking up what is remembered.
        selection_seconds: in choosing and taking rows.
        training_seconds: in training steps on the chosen rows, optimizer included.
    """

    seen: int = 0
    scored: int = 0
    reused: int = 0
    trained: int = 0
    steps: int = 0
    scoring_seconds: float = 0.0
    selection_seconds: float = 0.0
    training_seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The counts by name."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Count on from `state`.

        Raises:
            ValueError: if it isn't the state of counters.
        """
        vars(self).update(check_state("counters", state, self.state_dict()))
