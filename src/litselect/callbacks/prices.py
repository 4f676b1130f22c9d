"""What each kind of work in a training costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from litselect.callbacks.price import Price
from litselect.callbacks.work import Work

KINDS: Final = ("load", "score", "select", "train", "proxy")


@dataclass(frozen=True)
class Prices:
    """A price for each kind of work; a kind that is not named is free.

    ==========  =========================================================================
    ``load``    rows of a batch that are loaded, decoded, augmented and moved
    ``score``   rows that go through a scoring pass
    ``select``  candidates that are selected from
    ``train``   rows of a training step: forward, backward, optimizer
    ``proxy``   rows that train the network which scores in the module's place, if one does
    ==========  =========================================================================

    Rows that a rater which learns beside the training sends forward and backward through the module are charged as
    trained, those that go forward alone as scored.

    Args:
        kinds: the price of each kind, all in one unit: seconds, or operations.

    Raises:
        ValueError: for a kind that does not exist, or if everything is free.
    """

    kinds: Mapping[str, Price]

    def __post_init__(self) -> None:
        if unknown := sorted(self.kinds.keys() - set(KINDS)):
            raise ValueError(f"Expected prices of {', '.join(KINDS)}, but got {', '.join(unknown)}.")
        if not any(cost for price in self.kinds.values() for _, cost in price.points):
            raise ValueError("Expected a price above 0 for some kind of work, or nothing would be spent, but got none.")

    @classmethod
    def of(cls, given: Prices | str | Path | Mapping[str, Iterable[tuple[float, float]]]) -> Prices:
        """Prices from a JSON file, or from a mapping of kinds to pairs of rows and cost.

        Raises:
            ValueError: if it does not hold such a mapping.
        """
        if isinstance(given, Prices):
            return given
        found: Any = json.loads(Path(given).read_text(encoding="utf-8")) if isinstance(given, str | Path) else given
        if not isinstance(found, Mapping):
            raise ValueError(f'Expected prices such as {{"train": [[128, 0.05]]}}, but got {found!r}.')
        kinds = cast("Mapping[str, Iterable[tuple[float, float]]]", found)
        return cls({kind: Price(cast("Any", points)) for kind, points in kinds.items()})

    def save(self, file: str | Path) -> None:
        """Write the JSON file that `of` reads."""
        kinds = {kind: price.points for kind, price in self.kinds.items()}
        Path(file).write_text(json.dumps(kinds, indent=1) + "\n", encoding="utf-8")

    def of_work(self, work: Work) -> dict[str, float]:
        """The cost of the work of one batch, by kind; what cost nothing is left out."""
        costs = {kind: price.of(getattr(work, kind)) for kind, price in self.kinds.items()}
        costs["rate"] = self._rows("train", work.rater_trained) + self._rows("score", work.rater_scored)
        return {kind: cost for kind, cost in costs.items() if cost}

    def _rows(self, kind: str, rows: int) -> float:
        """Rows at the price that they have in the largest batch that was priced: look-aheads come in batches."""
        if kind not in self.kinds:
            return 0.0
        most, cost = self.kinds[kind].points[-1]
        return rows * cost / most
