"""Kinds of scoring passes, and each one's bare form: what the floor counts."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.step_costs.learner import Batch, Learner
from experiments.step_costs.models import Subject

Call = Callable[[], object]


@dataclass(frozen=True)
class Kind:
    """How a scoring pass runs.

    Attributes:
        bf16: under autocast, whatever the precision of training.
        channels_last: images and weights in this format.
        resolution: of the images, a factor.
        compiled: by `torch.compile`.
        proxy: by a small network in place of the trained one.
    """

    bf16: bool = False
    channels_last: bool = False
    resolution: float = 1.0
    compiled: bool = False
    proxy: bool = False

    @property
    def measured_by_auto(self) -> bool:
        """Whether `scoring="auto"` looks at it and may take it: images of half the size choose other rows."""
        return not self.compiled and not self.proxy and self.resolution == 1

    def bare(self, subject: Subject, learner: Learner, batch: Batch, *, bf16: bool) -> Call:
        """The forward pass and the losses of `batch`, without gradients, and nothing else.

        Weights are brought into the format beforehand, images within: batches arrive as they are.

        Args:
            subject: what is trained.
            learner: its network.
            batch: on the network's device.
            bf16: whether training is in bf16, as the pass then is.
        """
        device = learner.device
        scorer = subject.proxy().to(device) if self.proxy else copy.deepcopy(learner)
        scorer.eval()
        if self.channels_last:
            scorer.to(memory_format=torch.channels_last)
        if self.compiled:
            scorer.net.compile()

        def call() -> Tensor:
            with torch.no_grad(), autocast(device, bf16 or self.bf16):
                return scorer.loss([self._formatted(batch[0]), batch[1]], "none")

        return call

    def _formatted(self, inputs: Tensor) -> Tensor:
        if self.resolution != 1:
            inputs = F.interpolate(inputs, scale_factor=self.resolution, mode="area")
        return inputs.contiguous(memory_format=torch.channels_last) if self.channels_last else inputs


def forward(learner: Learner, batch: Batch, *, bf16: bool) -> Call:
    """The forward pass of training, with its graph: what re-using a forward pass can't save."""
    learner = copy.deepcopy(learner).train()

    def call() -> Tensor:
        with autocast(learner.device, bf16):
            return learner.loss(batch)

    return call


def autocast(device: torch.device, on: bool) -> torch.autocast | nullcontext[None]:
    """Bfloat16 where it is on."""
    return torch.autocast(device.type, torch.bfloat16) if on else nullcontext()
