"""Give every class its share of the chosen rows.

Neyman, 1934, "On the Two Different Aspects of the Representative Method", Journal of the Royal Statistical Society
97(4), for stratified samples; Hamilton's method of largest remainders for the rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from litselect.selectors.selection import Selection
from litselect.selectors.wrapper import Wrapper

if TYPE_CHECKING:
    from torch import Tensor

    from litselect.selectors.selector import Selector


class Stratified(Wrapper):
    r"""Choose within each class: :math:`k_c \approx k\, N_c / N` of its :math:`N_c` rows, rounded by largest remainder.

    The k rows that are to be trained are dealt out to the classes of the batch: each gets the whole part of its quota,
    and those of the largest remainders one more. Equal remainders are drawn by lot, or small classes of low label
    would always win over others. The wrapped selector is called once for every class that gets rows, in the order of
    the labels; what it counts or remembers, it counts or remembers class by class.

    Weights of the wrapped selector are multiplied by :math:`(k N_c) / (N k_c)`: the mean loss stays unbiased if every
    class gets a row; classes without are missing from it.

    Needs: targets (class labels) and what the wrapped selector needs.  State: its random stream, and the wrapped
    state.  Cost: O(N log N), a call of the wrapped selector for every class, one host sync.

    Args:
        selector: chooses within a class.
        seed: see `Wrapper`.
        generator: see `Selector`.

    Raises:
        ValueError: if the number of rows is the wrapped selector's choice, or targets are not one label per candidate.

    >>> from litselect.selectors import TopLoss
    >>> select = Stratified(TopLoss(keep=0.5))
    >>> select(losses=torch.tensor([9.0, 8.0, 0.1, 0.2]), targets=torch.tensor([0, 0, 1, 1])).indices
    tensor([0, 3])
    """

    memoryless = True

    def __init__(
        self, selector: Selector, *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(selector, needs=frozenset({"targets"}), seed=seed, generator=generator)
        if self.probabilistic:
            raise ValueError(
                f"Stratified deals out a fixed number of rows, but {selector!r} chooses how many. "
                "Use a selector with a fixed number, such as LossPercentile(fixed_size=True)."
            )

    def select(self, k: int, *, candidates: int, device: torch.device, targets: Tensor, **scores: Any) -> Selection:
        """K rows in the proportions of the classes."""
        if targets.ndim != 1 or targets.is_floating_point():
            raise ValueError(
                f"Stratified needs one class label per candidate, but targets are {targets.dtype} of shape "
                f"{tuple(targets.shape)}. Soft or dense targets have no single class: leave Stratified out."
            )
        labels = [int(label) for label in targets.cpu()]
        classes: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
        for row, label in enumerate(labels):
            classes[label].append(row)
        rows: list[Tensor] = []
        weights: list[Tensor] = []
        inclusion: list[Tensor] = []
        sizes = [len(members) for members in classes.values()]
        for members, seats in zip(classes.values(), self._seats(k, sizes), strict=True):
            if seats == 0:
                continue
            member = torch.tensor(members).to(device, non_blocking=True)
            chosen = self._choose_among(member, seats, {**scores, "targets": targets})
            rows.append(member[chosen.indices])
            if chosen.weights is not None:
                weights.append(chosen.weights * (k * len(member) / (candidates * seats)))
            if chosen.inclusion is not None:
                inclusion.append(chosen.inclusion)
        return Selection.of(
            torch.cat(rows),
            torch.cat(weights) if len(weights) == len(rows) else None,
            torch.cat(inclusion) if len(inclusion) == len(rows) else None,
        )

    def _seats(self, k: int, sizes: list[int]) -> list[int]:
        """How many of the k rows each class gets."""
        n = sum(sizes)
        seats = [k * size // n for size in sizes]
        lot = [int(place) for place in torch.randperm(len(sizes), generator=self.generator)]
        by_remainder = sorted(range(len(sizes)), key=lambda c: (-(k * sizes[c] % n), lot[c]))
        for c in by_remainder[: k - sum(seats)]:
            seats[c] += 1
        return seats
