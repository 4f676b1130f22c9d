"""A rater that sees an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


class ImageRater(nn.Module):
    """A small convolutional network: three strided convolutions, global average, one number.

    It sees no label, so wrong labels are invisible to it: for those use `LabelledImageRater`.

    GELU and GroupNorm, since a rater's own smoothness is the smoothness of what it learns, and since ratings of an
    example must not depend on the batch.

    Args:
        channels: of the images.
        width: channels of the first convolution.
        size: side in pixels to which images are scaled before they are looked at; None leaves them.
        mean: of each channel, subtracted; part of what an artifact stores.
        std: of each channel, divided by.
        outputs: numbers per image; a rating is one, others are for classes that build on this.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 16,
        *,
        size: int | None = None,
        mean: Sequence[float] | float = 0.0,
        std: Sequence[float] | float = 1.0,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "channels": channels, "width": width, "size": size, "mean": _plain(mean), "std": _plain(std),
            "outputs": outputs,
        }  # fmt: skip
        self.size = size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)
        widths = [channels, width, 2 * width, 4 * width]
        self.features = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(math.gcd(4, b), b), nn.GELU())
                for a, b in pairwise(widths)
            )
        )
        self.head = nn.Linear(widths[-1], outputs)
        nn.init.zeros_(self.head.weight)  # every example begins with the same rating
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
        """The ratings of images."""
        return self._outputs(inputs).squeeze(1)

    def _outputs(self, images: Tensor) -> Tensor:
        images = (images.float() - self.mean) / self.std
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        return self.head(self.features(images).mean((2, 3)))


def _per_channel(values: Sequence[float] | float) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1)


def _plain(values: Sequence[float] | float) -> list[float] | float:
    return float(values) if isinstance(values, (int, float)) else [float(value) for value in values]
