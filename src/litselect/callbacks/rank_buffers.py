"""Buffers that differ between ranks.

Running averages of BatchNorm are each rank's own between two training steps: data-parallel training overwrites them
with those of rank 0 at every forward pass of the wrapped module, and a checkpoint holds rank 0's alone. Scores depend
on them, so a resumed rank needs its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from litselect.callbacks.process_group import world_size

if TYPE_CHECKING:
    from torch import nn


def own_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of this rank that are not what rank 0 has. A collective for each buffer, if there are more ranks."""
    if world_size() == 1:
        return {}
    own: dict[str, Tensor] = {}
    for name, buffer in _plain_buffers(module).items():
        first = buffer.detach().clone()
        distributed.broadcast(first, src=0)
        if not torch.equal(first, buffer):
            own[name] = buffer.detach().cpu()
    return own


@torch.no_grad()
def restore_buffers(module: nn.Module, own: dict[str, Tensor]) -> None:
    """Give this rank its own buffers again."""
    buffers = _plain_buffers(module)
    for name, value in own.items():
        if name in buffers and buffers[name].shape == value.shape:
            buffers[name].copy_(value)


def _plain_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that every rank holds in full (a sharded one is no plain tensor)."""
    return {name: buffer for name, buffer in module.named_buffers() if type(buffer) is Tensor}
