"""A model in training, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from litselect.scoring.meta_gradients.inner_optimizer import Moments


@dataclass(frozen=True)
class InnerState:
    """All that a training step reads and writes. Never changed in place: a step makes a new one.

    Args:
        parameters: those that are trained, in the order of the objective's names.
        buffers: by name.
        moments: of the optimizer.
        steps: how many were made.
    """

    parameters: list[Tensor]
    buffers: dict[str, Tensor]
    moments: Moments
    steps: int = 0

    def detached(self) -> InnerState:
        """The same values without a graph."""
        return InnerState(
            [p.detach() for p in self.parameters],
            {name: buffer.detach() for name, buffer in self.buffers.items()},
            {name: [m.detach() for m in moment] for name, moment in self.moments.items()},
            self.steps,
        )

    def cloned_buffers(self) -> dict[str, Tensor]:
        """The buffers, for a forward pass that may write into them."""
        return {name: buffer.clone() for name, buffer in self.buffers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and a number."""
        return dict(vars(self))
