"""What a selector answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """The rows to train and, for a weighted selector, the weight of each row's loss.

    Args:
        indices: ``[k]`` int64, ascending, none twice: positions among the candidates.
        weights: ``[k]`` float, in the order of `indices`, or ``None`` for a plain mean. They are normalised so that
            the mean of ``weights * losses[indices]`` estimates the mean loss over all candidates without bias.
        inclusion: ``[k]`` float, the probabilities with which the chosen rows were drawn, where the selector knows
            them.

    Raises:
        TypeError: if `indices` are a mask, or scores.
    """

    indices: Int[Tensor, " kept"]
    weights: Float[Tensor, " kept"] | None = None
    inclusion: Float[Tensor, " kept"] | None = None

    def __post_init__(self) -> None:
        if self.indices.dtype is torch.bool or self.indices.is_floating_point():
            raise TypeError(
                f"A Selection holds the positions of the chosen candidates, which are integers, but got "
                f"{self.indices.dtype}. For a mask pass Selection(mask.nonzero().squeeze(1))."
            )

    @classmethod
    def of(
        cls,
        rows: Int[Tensor, " kept"],
        weights: Float[Tensor, " kept"] | None = None,
        inclusion: Float[Tensor, " kept"] | None = None,
    ) -> Selection:
        """A selection from rows in any order.

        >>> import torch
        >>> Selection.of(torch.tensor([3, 1])).indices
        tensor([1, 3])
        """
        rows, order = rows.sort()
        return cls(rows, None if weights is None else weights[order], None if inclusion is None else inclusion[order])

    def __len__(self) -> int:
        return self.indices.numel()
