"""How selection shares out the training among the classes."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_STARVED: Final = 0.1  # of its share
_LEAST: Final = 200  # rows of a class that must have been seen before anything is said
_TOGETHER: Final = 20  # batches
_MOST: Final = 100_000  # classes
_BARS: Final = "▁▂▃▄▅▆▇█"


class KeptLabels:
    """Counts, for each class, the rows that came and the rows (or the weight) that were kept of them.

    Old batches fade: the counts are of about the last thousand batches.

    Cost: batches wait on their device until they are asked for, or are twenty; then the host reads them.
    """

    def __init__(self) -> None:
        self._counts = torch.zeros(2, 0, dtype=torch.float64)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._batches = 0
        self._said = False

    @property
    def seen(self) -> Float[Tensor, " classes"]:
        """Rows that came."""
        return self._counted()[0]

    @property
    def kept(self) -> Float[Tensor, " classes"]:
        """What was kept of them."""
        return self._counted()[1]

    def update(self, targets: Int[Tensor, " batch"], kept: Float[Tensor, " batch"]) -> None:
        """Count a batch.

        Args:
            targets: class labels; negative ones are of no class.
            kept: the share of each row that was kept, 0 or 1 where rows are chosen.
        """
        self._waiting.append((targets.detach(), kept.detach()))
        self._batches += 1
        if len(self._waiting) >= _TOGETHER:
            self._counted()

    def _counted(self) -> Tensor:
        """Seen and kept, ``[2, classes]``."""
        for targets, kept in self._waiting:
            labels, shares = targets.cpu().long(), kept.cpu().double()
            labels, shares = labels[labels >= 0], shares[labels >= 0]
            if len(labels) and int(labels.max()) >= _MOST:
                labels, shares = labels[:0], shares[:0]  # numbers of something else than classes
            self._counts = 0.999 * self._counts
            if len(labels):
                classes = max(self._counts.shape[1], int(labels.max()) + 1)
                now = torch.stack([labels.bincount(w, classes) for w in (torch.ones_like(shares), shares)])
                self._counts = torch.nn.functional.pad(self._counts, (0, classes - self._counts.shape[1])) + now
        self._waiting = []
        return self._counts

    def ratios(self) -> Float[Tensor, " classes"]:
        """What each class gets relative to what it would get if none was favoured; NaN for classes that never came."""
        if not self.kept.sum():
            return torch.full_like(self.seen, float("nan"))
        return (self.kept / self.kept.sum()) / (self.seen / self.seen.sum())

    def warn(self) -> None:
        """Say so, once, if a class falls under a tenth of its share; looks at every twentieth batch."""
        if self._said or self._batches % _TOGETHER:
            return
        ratios = self.ratios()
        starved = ((ratios < _STARVED) & (self.seen >= _LEAST)).nonzero().squeeze(1)
        if len(starved):
            self._said = True
            shown = ", ".join(f"{int(label)} ({float(ratios[label]):.0%} of its share)" for label in starved[:5])
            warnings.warn(
                f"Selection starves classes {shown}. Stratified(selector), RatedSubset(within_class=True) or drawing "
                "(hard=False) keep their shares.",
                stacklevel=2,
            )

    def __str__(self) -> str:
        """A bar for each class: full where it gets twice its share."""
        ratios = cast("list[float]", cast("Any", self.ratios()[:20]).tolist())
        return "".join(" " if math.isnan(ratio) else _BARS[min(7, int(4 * ratio))] for ratio in ratios)

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"counts": self._counted().clone(), "said": self._said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._counts, self._waiting, self._said = state["counts"].clone(), [], state["said"]
