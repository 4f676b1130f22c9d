"""DenseNet-BC in its form for CIFAR.

Huang et al., 2016, "Densely Connected Convolutional Networks", https://arxiv.org/abs/1608.06993; for 32 x 32 images the
stem is one 3 x 3 convolution without pooling, as in kuangliu/pytorch-cifar.
"""

import torch
from torch import Tensor, nn

from experiments.models.blocks import classifier, conv
from experiments.models.size import require_size


class DenseLayer(nn.Module):
    """Adds `growth` channels, computed from all before them through a bottleneck of 4 growth.

    Args:
        inputs: channels in.
        growth: channels added.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.added = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            conv(inputs, 4 * growth, 1),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            conv(4 * growth, growth, 3),
        )

    def forward(self, images: Tensor) -> Tensor:
        """`[N, inputs, H, W]` to `[N, growth + inputs, H, W]`."""
        return torch.cat([self.added(images), images], dim=1)


class DenseNet(nn.Module):
    """Dense blocks, each but the last followed by a transition that halves channels and size.

    Args:
        channels: channels of the images.
        size: side of the images in pixels.
        classes: number of classes.
        blocks: layers in each dense block; [6, 12, 24, 16] is DenseNet-121.
        growth: channels that a layer adds.
    """

    def __init__(self, channels: int, size: int, classes: int, blocks: list[int], growth: int) -> None:
        super().__init__()
        require_size(size, at_least=8)
        width = 2 * growth
        layers: list[nn.Module] = [conv(channels, width, 3)]
        for block, count in enumerate(blocks):
            if block:
                layers += [nn.BatchNorm2d(width), nn.ReLU(), conv(width, width // 2, 1), nn.AvgPool2d(2)]
                width //= 2
            for _ in range(count):
                layers.append(DenseLayer(width, growth))
                width += growth
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
        self.head = classifier(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` float to logits `[N, classes]`."""
        return self.head(self.layers(images))
