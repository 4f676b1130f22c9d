"""A small vision transformer.

Dosovitskiy et al., 2020, "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929; with the mean over patches
in place of a class token.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.models.transformer_block import TransformerBlock


class VisionTransformer(nn.Module):
    """Patches, learned positions, blocks, mean, linear.

    Images of another size than `size` are taken too: the positions are interpolated.

    Args:
        channels: of the images.
        size: side of the images in pixels.
        classes: number of classes.
        patch: side of a patch in pixels.
        width: of the residual stream.
        depth: blocks.
        heads: of attention.
    """

    def __init__(self, channels: int, size: int, classes: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, width, size // patch, size // patch))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, causal=False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, classes]``."""
        patches, places = self.patches(images), self.places
        if patches.shape[2:] != places.shape[2:]:
            places = F.interpolate(places, patches.shape[2:], mode="bilinear", align_corners=False)
        x = self.blocks((patches + places).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))
