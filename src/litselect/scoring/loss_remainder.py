"""What a training step adds to the losses that are attributed to examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from litselect.scoring.loss_capture import LossCapture
from litselect.scoring.row_order import is_total

if TYPE_CHECKING:
    from collections.abc import Set

    from jaxtyping import Float


class LossRemainder(LossCapture):
    """A `LossCapture` that makes nothing of the losses that it sees.

    Args:
        n: the number of examples in the batch.
        spared: places, in their order, of losses that stay what they are.
    """

    def __init__(self, n: int, spared: Set[int] = frozenset()) -> None:
        super().__init__(n)
        self._spared = spared
        self._leaves: list[Tensor] = []  # of all losses, in their order
        self._remade: set[int] = set()  # places of those that the step reduced itself, which made others

    def measure(self, step: Callable[[], Any]) -> Float[Tensor, ""] | None:
        """What is left of the step's loss where every loss that is attributed is zero: a penalty, or what is not seen.

        A loss that the total has no derivative by is not attributed. Mostly that is a metric; but one that is computed
        inside a reentrant checkpoint has its part in the total all the same, and stands in what is left.

        Args:
            step: runs once more, where there is such a loss.

        Returns:
            One number, or ``None`` where the step returned ``None``.

        Raises:
            CaptureError: as `run`.
        """
        total = self._total(step)
        if total is None:
            return None
        if lost := set(range(len(self._leaves))) - self._with_derivative(total) - self._remade:
            total = cast("Tensor", LossRemainder(self.n, lost)._total(step))
        return total.detach().reshape(())

    def _with_derivative(self, value: Tensor) -> set[int]:
        """Places of the losses that `value` depends on."""
        derivatives = self._derivatives(value, self._leaves)
        return {place for place, derivative in enumerate(derivatives) if derivative is not None}

    def _derived(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and id(args[0]) in self._rowful and is_total(func, args, kwargs):
            self._remade |= self._with_derivative(args[0])  # in the total by what they come to
        return super()._derived(func, args, kwargs)

    def _seen(self, value: Tensor) -> Tensor:
        leaf = super()._seen(value) if len(self._leaves) in self._spared else torch.zeros_like(value)
        self._leaves.append(leaf)
        return leaf
