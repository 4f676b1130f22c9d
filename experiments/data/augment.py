"""Augmentation of a whole batch that draws anew for every image.

torchvision's v2 transforms, given a batch, apply one crop and one flip to all of it.
"""

import torch
from torch import Tensor


def crop_and_flip(pixels: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shifts every image by up to `padding` pixels over zeros, and mirrors every second one on average.

    Args:
        pixels: `[N, C, H, W]`, any dtype.
        padding: pixels of zero padding on each side, from which a window of H x W is cut.
        flip: whether to mirror, each image with probability one half.
        generator: source of randomness, on the device of `pixels`.

    Returns:
        `[N, C, H, W]`, the dtype of `pixels`.
    """
    count, channels, height, width = pixels.shape
    device = pixels.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count, 1), generator=generator, device=device)

    rows = torch.arange(height, device=device) + draw(2 * padding + 1)  # [N, H]
    columns = torch.arange(width, device=device).expand(count, width)  # [N, W]
    if flip:
        columns = torch.where(draw(2).bool(), width - 1 - columns, columns)
    columns = columns + draw(2 * padding + 1)
    padded = torch.nn.functional.pad(pixels, (padding,) * 4)
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Sets a square of every image to zero, which is the mean of normalised images.

    DeVries & Taylor, 2017, https://arxiv.org/abs/1708.04552. The centre is uniform over the pixels, so the square may
    reach over the border, as in the paper.

    Args:
        images: `[N, C, H, W]` float.
        side: side of the square in pixels.
        generator: source of randomness, on the device of `images`.

    Returns:
        `[N, C, H, W]`, the dtype of `images`.
    """
    count, _, height, width = images.shape
    inside = _near(height, side, count, generator)[:, :, None] & _near(width, side, count, generator)[:, None, :]
    return images.masked_fill(inside[:, None], 0)


def _near(length: int, side: int, count: int, generator: torch.Generator) -> Tensor:
    """Which of `length` positions lie in an interval of `side` around a random centre: `[count, length]` bool."""
    start = torch.randint(length, (count, 1), generator=generator, device=generator.device) - side // 2
    position = torch.arange(length, device=generator.device)
    return (position >= start) & (position < start + side)
