"""Floating-point operations: matrix products and convolutions, a multiply-add is two."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from litselect.scoring.meta_gradients import InnerState, LossObjective


def operations(call: Callable[[], object]) -> int:
    """Those of a call; attention runs on the MATH kernel, whose products are seen."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


def plain_step(objective: LossObjective, start: InnerState, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """The forward and the backward pass of a batch."""
    leaves = [p.detach().requires_grad_() for p in start.parameters]
    return list(torch.autograd.grad(objective.outer(leaves, start.cloned_buffers(), batch), leaves))
