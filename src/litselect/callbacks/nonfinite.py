"""Policies for scores that are NaN or inf."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from litselect.selectors import Selection, Selector

if TYPE_CHECKING:
    from jaxtyping import Bool

Policy = Literal["raise", "drop", "train"]
POLICIES: tuple[Policy, ...] = ("raise", "drop", "train")


def looked_up(selector: Selector, policy: Policy) -> Set[str] | None:
    """Names of the scores that a choice of rows by remembered losses looks at; None for all."""
    if selector.takes is None:
        return None
    takes = selector.takes | selector.needs
    spared = selector.needs - selector.uses(takes)  # what is not needed beside something else that is known
    return (takes - spared) | (set[str]() if policy == "raise" else {"losses"})


def finite_rows(scores: dict[str, Any]) -> Bool[Tensor, " batch"]:
    """Rows whose losses and ratings are numbers, where they have any."""
    looked_at = [cast("Tensor", scores[name]) for name in ("losses", "ratings") if name in scores]
    return torch.stack([values.isfinite() for values in looked_at]).all(0)


def select_finite(selector: Selector, scores: dict[str, Any], k: int, policy: Policy) -> Selection:
    """Let `selector` choose among the finite rows alone; the others are never trained, or first of all.

    Makes the host wait for the device, which ``"raise"`` does not: that one is left to `FiniteGuard`.

    Raises:
        FloatingPointError: if rows are dropped and none is left.
    """
    if policy == "raise":
        return selector(k=k, **scores)
    finite = finite_rows(scores)
    good, bad = finite.nonzero().squeeze(1), finite.logical_not().nonzero().squeeze(1)
    most = len(bad) if selector.probabilistic else k  # whose k is no quota
    forced = bad[:most] if policy == "train" else bad[:0]
    wanted = min(k if selector.probabilistic else k - len(forced), len(good))
    if not wanted:
        if not len(forced):
            raise FloatingPointError(
                f'All {finite.numel()} losses of a batch are NaN or inf, so nonfinite="drop" leaves no row to train. '
                "The model has diverged, or the data is broken."
            )
        return Selection.of(forced)
    part: dict[str, Any] = {
        name: values[good] if isinstance(values, Tensor) else values for name, values in scores.items()
    }
    chosen = selector(k=wanted, **part)
    rows = torch.cat([forced, good[chosen.indices]])
    beside = [
        None if values is None else torch.cat([values.new_ones(len(forced)), values])
        for values in (chosen.weights, chosen.inclusion)
    ]
    return Selection.of(rows, *beside)
