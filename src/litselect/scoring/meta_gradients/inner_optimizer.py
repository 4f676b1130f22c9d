"""The interface of optimizers that can be differentiated through."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

Moments = dict[str, list[Tensor]]
"""What an optimizer remembers of each parameter, under the names that torch.optim gives it."""


class InnerOptimizer(ABC):
    """An optimizer as a function: nothing is changed in place, so that autograd sees through it.

    Parameters, gradients and each of the moments are lists in one order. All arithmetic is elementwise.
    """

    @abstractmethod
    def begin(self, parameters: list[Tensor]) -> Moments:
        """The moments before the first step."""

    @abstractmethod
    def update(
        self, parameters: list[Tensor], moments: Moments, gradients: list[Tensor], steps: int
    ) -> tuple[list[Tensor], Moments]:
        """One step.

        Args:
            parameters: before it.
            moments: before it.
            gradients: of the loss.
            steps: how many were made before.

        Returns:
            Parameters and moments after it.
        """
