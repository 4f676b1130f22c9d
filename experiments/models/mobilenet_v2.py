"""MobileNetV2 in its form for CIFAR.

Sandler et al., 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", https://arxiv.org/abs/1801.04381, with
the changes of kuangliu/pytorch-cifar for 32 x 32 images: stride 1 in the stem and in the second stage, ReLU for ReLU6,
and a convolution on the shortcut wherever the channels change at stride 1.
"""

from torch import Tensor, nn

from experiments.models.blocks import classifier, conv_norm
from experiments.models.size import require_size

STAGES = (  # expansion, channels out, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expands, filters each channel by itself, projects back; the shortcut joins the narrow ends.

    Args:
        inputs: channels in.
        outputs: channels out.
        expansion: factor from `inputs` to the channels in the middle.
        stride: of the middle convolution; only at stride 1 is there a shortcut.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        middle = expansion * inputs
        self.residual = nn.Sequential(
            conv_norm(inputs, middle, 1),
            nn.ReLU(),
            conv_norm(middle, middle, 3, stride, groups=middle),
            nn.ReLU(),
            conv_norm(middle, outputs, 1),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = nn.Identity() if inputs == outputs else conv_norm(inputs, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """`[N, inputs, H, W]` to `[N, outputs, H / stride, W / stride]`."""
        residual = self.residual(images)
        return residual if self.shortcut is None else residual + self.shortcut(images)


class MobileNetV2(nn.Module):
    """A stem, seven stages of inverted residuals, and a wide last layer.

    Args:
        channels: channels of the images.
        size: side of the images in pixels.
        classes: number of classes.
    """

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        require_size(size, at_least=8)
        inputs, blocks = 32, list[nn.Module]()
        for expansion, outputs, count, stride in STAGES:
            for block in range(count):
                blocks.append(InvertedResidual(inputs, outputs, expansion, 1 if block else stride))
                inputs = outputs
        self.stem = nn.Sequential(conv_norm(channels, 32, 3), nn.ReLU())
        self.blocks = nn.Sequential(*blocks, conv_norm(inputs, 1280, 1), nn.ReLU())
        self.head = classifier(1280, classes)

    def forward(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` float to logits `[N, classes]`."""
        return self.head(self.blocks(self.stem(images)))
