"""Floating-point operations of a network, counted once per shape."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.callbacks.tally import Tally
from litselect.scoring import ScoringPass


@dataclass(frozen=True)
class Flops:
    """Operations for one example.

    Attributes:
        forward: of a forward pass.
        training: of a forward and a backward pass.
        scoring: of a scoring pass, where it is not a forward pass of the network.
        proxy: of training the network that scores in the other's place.
    """

    forward: int
    training: int
    scoring: int | None = None
    proxy: int = 0

    @property
    def score(self) -> int:
        """Of scoring one example."""
        return self.forward if self.scoring is None else self.scoring

    def of(self, tally: Tally) -> int:
        """Operations of scoring and training together; evaluation is not charged."""
        return tally.scored * self.score + tally.trained * (self.training + self.proxy)

    def with_scores(self, scoring: ScoringPass, channels: int, size: int) -> "Flops":
        """The same for a scoring pass by another network."""
        if scoring.proxy is None:
            return self
        own = count(scoring.proxy, channels, size)
        return replace(self, scoring=own.forward, proxy=own.training if scoring.proxy_optimizer is not None else 0)


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
