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
        self._raised: list[tuple[dict[str, Any], Any]] = []

    def apply(self, optimizer: Optimizer, factor: float) -> None:
        """Raise that of `optimizer` by `factor`, until it has stepped or `restore` is called."""
        raised = {id(group) for group, _ in self._raised}
        groups = [group for group in optimizer.param_groups if id(group) not in raised]
        if factor == 1 or not groups:  # an optimizer may evaluate the loss several times a step
            return
        for group in groups:
            self._raised.append((group, group["lr"]))
            group["lr"] = group["lr"] * factor

        def stepped(*_: Any) -> None:
            handle.remove()
            self.restore()

        handle = optimizer.register_step_post_hook(stepped)

    def restore(self) -> None:
        """Put back what was set: also where a scaler of gradients left out the step."""
        while self._raised:
            group, rate = self._raised.pop()
            group["lr"] = rate
