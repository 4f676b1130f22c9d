"""Why losses can't be remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from litselect.callbacks.score_plan import REMEDY
from litselect.scoring import Scores
from litselect.scoring.predictions import is_mixed


class Doubts:
    """What stands against a ledger: an error, or a note where a callback can do without it.

    Attributes:
        objects: set by such a callback: raises ValueError for a training loader that is of no use to it.
        reason: the first note; empty as long as there is none.
        settled: whether nobody listens to loaders any more, from the next epoch on.
        late: whether rows are being chosen by what is remembered, so that it is too late to do without.
    """

    def __init__(self) -> None:
        self.objects: Callable[[Any], None] | None = None
        self.reason = ""
        self.settled = self.late = False

    def settle(self, error: Exception) -> None:
        """Before an epoch: it can go without a ledger.

        Raises:
            Exception: `error`, where nobody can do without.
        """
        if self.objects is None:
            raise error
        self.reason, self.settled = str(error), True

    def refuse(self, error: Exception) -> None:
        """Within an epoch: the next one can go without a ledger.

        Raises:
            Exception: `error`, where nobody can do without or it is too late for that.
        """
        if self.objects is None:
            raise error
        if self.late:
            raise type(error)(f"{error} {REMEDY}") from error
        self.reason = self.reason or str(error)

    def look(self, scores: Scores) -> None:
        """Refuse rows that are made of two examples each.

        Raises:
            ValueError: if a target is shared by two classes.
        """
        if is_mixed(scores):
            self.refuse(
                ValueError(
                    "A ledger remembers losses under the id of one example, but rows whose targets are shared by two "
                    "classes were received, as mixup and cutmix make them. Select by what is scored in the present "
                    "batch: scoring=ScoringPass(), rescore_every=1, max_age=0."
                )
            )
