"""Whether captured losses are what they are taken for."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from litselect.scoring.loss_capture import CaptureError
from litselect.scoring.loss_remainder import LossRemainder
from litselect.scoring.rows import take_rows

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

REMEDY: Final = (
    "Define `example_losses(self, batch) -> Tensor[N]` on the module, "
    "or pass `loss_fn=lambda module, batch: ...` to the callback."
)


@dataclass(frozen=True, eq=False)
class CaptureCheck:
    """Replaces half of the rows of a batch and looks at what changes.

    Not a permutation of the rows: noise that the step draws stays with its position and would look like a fault.

    Args:
        batch: N examples.
        n: N.
        losses: those captured from `batch`.
        tolerance: by which share of itself a loss may change.
    """

    batch: Any
    n: int
    losses: Float[Tensor, " batch"]
    tolerance: float

    def _half(self, size: int) -> Any:
        """The first `size` rows, the second half of which is replaced by the first row."""
        rows = torch.arange(size, device=self.losses.device)
        rows[max(size // 2, 2) :] = 0
        return take_rows(self.batch, rows, self.n)

    def rows(self, score: Callable[[Any], Tensor | None]) -> bool:
        """Check that other rows' content changes a row's loss by no more than a common factor.

        Args:
            score: the captured losses of a batch of N rows.

        Returns:
            Whether this settles it: not with losses that are all alike, nor with few rows.

        Raises:
            CaptureError: if it changes it otherwise.
        """
        kept = max(self.n // 2, 2)
        if self.n <= kept:
            return False  # a common factor explains any change of one row
        after = score(self._half(self.n))
        if after is None:
            return False
        before, after = self.losses[:kept], after[:kept]
        finite = before.isfinite() & after.isfinite()
        before, after = before[finite].double(), after[finite].double()
        if before.numel() < 2:
            return False
        factor = (before @ after) / (before @ before).clamp_min(1e-300)
        if bool(((after - factor * before).abs() > self.tolerance * (factor.abs() * before.abs() + 1e-4)).any()):
            raise CaptureError(
                "Selection needs losses that belong to one example each, but replacing some rows of the batch changed "
                "the losses captured for others. Either the loss compares examples (contrastive, mixup: "
                "such batches can't be selected from row by row), or the training step flattens them in an order "
                f"other than batch first. {REMEDY}"
            )
        spread = (before - before.mean()).abs().max()
        return before.numel() > 3 and bool(spread > 1e-3 * before.abs().max())

    def whole(
        self, step: Callable[[Any], Any], size: int, without_trace: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        """Check that no part of the loss that tells examples apart goes uncaptured.

        A penalty on the parameters does not; a loss that is written by hand and added to one of torch's does. Up to a
        hundredth of the differences between examples is let pass: a small bonus for entropy is no reason to refuse.

        Args:
            step: the training step as a function of the batch.
            size: how many rows fit into memory.
            without_trace: makes a context in which it can be run.

        Raises:
            CaptureError: if a part does.
        """
        found: list[float] = []
        whole = torch.arange(size, device=self.losses.device)
        for part in (lambda: take_rows(self.batch, whole, self.n), lambda: self._half(size)):
            with without_trace():
                try:
                    rest = LossRemainder(size).measure(lambda part=part: step(part()))
                except (ArithmeticError, CaptureError):
                    return  # a step that divides by its loss, or that goes by its value, is not the same without it
            found.append(math.nan if rest is None else rest.item())
        finite = self.losses[self.losses.isfinite()].double()
        spread = finite.std().item() if finite.numel() > 1 else 0.0
        if abs(found[0] - found[1]) > 0.01 * spread + 1e-5 * abs(found[0]):  # never so for NaN
            raise CaptureError(
                "Selection needs the whole loss of each example, but a part of what training_step returns depends on "
                "the examples and is computed without torch's loss functions (or within a checkpoint with "
                "use_reentrant=True), so the captured losses lack it. "
                f"{REMEDY}"
            )
