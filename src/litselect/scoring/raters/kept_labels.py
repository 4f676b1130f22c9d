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
_BARS: Final = "▁▂▃▄▅▆▇█"


class KeptLabels:
    """Counts, for each class, the rows that came and the rows (or the weight) that were kept of them.

    Old batches fade: the counts are of about the last thousand batches.

    Cost: two histograms of a batch, on its device; the host reads them when asked.
    """

    def __init__(self) -> None:
        self.seen = torch.zeros(0, dtype=torch.float64)
        self.kept = torch.zeros(0, dtype=torch.float64)
        self._said = False

    def update(self, targets: Int[Tensor, " batch"], kept: Float[Tensor, " batch"]) -> None:
        """Count a batch.

        Args:
            targets: class labels; negative ones are of no class.
            kept: the share of each row that was kept, 0 or 1 where rows are chosen.
        """
        targets, kept = targets.detach(), kept.detach().double()
        known = targets >= 0
        classes = max(len(self.seen), int(targets.max()) + 1)
        labels = torch.where(known, targets, 0).long()
        seen = torch.bincount(labels, known.double(), minlength=classes).cpu()
        held = torch.bincount(labels, known * kept, minlength=classes).cpu()
        missing = (0, classes - len(self.seen))
        self.seen = 0.999 * torch.nn.functional.pad(self.seen, missing) + seen
        self.kept = 0.999 * torch.nn.functional.pad(self.kept, missing) + held

    def ratios(self) -> Float[Tensor, " classes"]:
        """What each class gets relative to what it would get if none was favoured; NaN for classes that never came."""
        if not self.kept.sum():
            return torch.full_like(self.seen, float("nan"))
        return (self.kept / self.kept.sum()) / (self.seen / self.seen.sum())

    def warn(self) -> None:
        """Say so, once, if a class falls under a tenth of its share."""
        ratios = self.ratios()
        starved = ((ratios < _STARVED) & (self.seen >= _LEAST)).nonzero().squeeze(1)
        if len(starved) and not self._said:
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
        return {"seen": self.seen.clone(), "kept": self.kept.clone(), "said": self._said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.seen, self.kept, self._said = state["seen"].clone(), state["kept"].clone(), state["said"]
