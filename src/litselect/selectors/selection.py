"""What a selector answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """

    indices: Int[Tensor, " kept"]
    weights: Float[Tensor, " kept"] | None = None
    inclusion: Float[Tensor, " kept"] | None = None

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
