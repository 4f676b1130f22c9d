"""What a look-ahead finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litselect.scoring.meta_gradients.inner_state import InnerState


@dataclass(frozen=True)
class MetaGradient:
    """How the held-out loss after T steps depends on the weights of the examples in them.

    Args:
        loss: the held-out loss, detached.
        influences: for each step ``[N]``, the derivative of `loss` with respect to the example's weight: negative where
            more weight would have lowered it.
        ratings: for each step ``[N]``, on the rater's graph.
        weights: their softmax, on the rater's graph.
        end: the model after the last step, detached.
    """

    loss: Tensor
    influences: list[Tensor]
    ratings: list[Tensor]
    weights: list[Tensor]
    end: InnerState

    def backward(self) -> None:
        """Add the gradient of the held-out loss to the ``.grad`` of whatever the ratings depend on."""
        torch.autograd.backward(self.weights, self.influences)
