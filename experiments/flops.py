"""Floating-point operations of a network, counted once per shape."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.callbacks.tally import Tally


@dataclass(frozen=True)
class Flops:
    """Operations for one example.

    Attributes:
        forward: of a forward pass.
        training: of a forward and a backward pass.
    """

    forward: int
    training: int

    def of(self, tally: Tally) -> int:
        """Operations of scoring and training together; evaluation is not charged."""
        return tally.scored * self.forward + tally.trained * self.training


def count(net: nn.Module, channels: int, size: int) -> Flops:
    """Counts with `torch.utils.flop_counter` (matrix products and convolutions; a multiply-add is two operations).

    The count runs on the meta device: shapes alone, so it computes nothing and draws no randomness.

    Args:
        net: images `[N, channels, size, size]` to logits.
        channels: channels of the images.
        size: side of the images in pixels.
    """
    rows = 2  # BatchNorm refuses to train on one value per channel
    shadow = copy.deepcopy(net).to("meta").train()
    images = torch.empty(rows, channels, size, size, device="meta")
    with FlopCounterMode(display=False) as counter:
        logits = shadow(images)
        forward = counter.get_total_flops()
        logits.sum().backward()
    return Flops(forward // rows, counter.get_total_flops() // rows)
