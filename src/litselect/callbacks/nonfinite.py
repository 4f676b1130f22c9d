"""Policies for scores that are NaN or inf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from litselect.selectors import Selection, Selector

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Policy = Literal["raise", "drop", "train"]
POLICIES: tuple[Policy, ...] = ("raise", "drop", "train")


def select_finite(selector: Selector, losses: Float[Tensor, " batch"], k: int, policy: Policy) -> Selection:
    """Let `selector` choose among the finite rows alone; the others are never trained, or first of all.

    Makes the host wait for the device, which ``"raise"`` does not: that one is left to `FiniteGuard`.

    Raises:
        FloatingPointError: if rows are dropped and none is left.
    """
    if policy == "raise":
        return selector(losses=losses, k=k)
    finite = losses.isfinite()
    good, bad = finite.nonzero().squeeze(1), finite.logical_not().nonzero().squeeze(1)
    forced = bad[:k] if policy == "train" else bad[:0]
    wanted = min(k - len(forced), len(good))
    if not wanted:
        if not len(forced):
            raise FloatingPointError(
                f'All {losses.numel()} losses of a batch are NaN or inf, so nonfinite="drop" leaves no row to train. '
                "The model has diverged, or the data is broken."
            )
        return Selection.of(forced)
    chosen = selector(losses=losses[good], k=wanted)
    rows = torch.cat([forced, good[chosen.indices]])
    if chosen.weights is None:
        return Selection.of(rows)
    return Selection.of(rows, torch.cat([chosen.weights.new_ones(len(forced)), chosen.weights]))
