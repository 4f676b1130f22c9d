"""A larger learning rate for fewer steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer


class RaisedLearningRate:
    """Multiplies the learning rate while an optimizer steps, so that schedules and logs see the one that was set.

    Where hidden rows make for fewer steps, each is made longer by as much: Nguyen et al., 2023, KAKURENBO,
    https://arxiv.org/abs/2310.10102.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._raised: list[tuple[dict[str, Any], Any]] = []

    def apply(self, optimizer: Optimizer) -> None:
        """Raise that of `optimizer`, until `restore`."""
        raised = {id(group) for group, _ in self._raised}
        for group in optimizer.param_groups:
            if self.factor != 1 and id(group) not in raised:  # an optimizer may evaluate the loss several times a step
                self._raised.append((group, group["lr"]))
                group["lr"] = group["lr"] * self.factor

    def restore(self) -> None:
        """Put back what was set."""
        while self._raised:
            group, rate = self._raised.pop()
            group["lr"] = rate
