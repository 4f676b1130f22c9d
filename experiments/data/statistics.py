"""Mean and spread of the pixels of a training set."""

import torch
from torch import Tensor


def channel_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, of values scaled to 0..1.

    Counting the 256 values is exact and needs no float copy of the set.

    Args:
        pixels: `[N, C, H, W]` uint8.

    Returns:
        Two `[C, 1, 1]` float32 tensors. A constant channel has standard deviation 1, so that dividing by it is safe.
    """
    value = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) for channel in pixels.cpu().unbind(1)]
    ).double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ value
    variance = (share * (value - mean[:, None]) ** 2).sum(1)
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return mean.float()[:, None, None], std.float()[:, None, None]
