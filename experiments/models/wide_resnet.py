"""Wide residual networks.

Zagoruyko & Komodakis, 2016, "Wide Residual Networks", https://arxiv.org/abs/1605.07146.
"""

import math

from torch import Tensor, nn

from experiments.errors import UsageError
from experiments.models.blocks import classifier, conv
from experiments.models.size import require_size


class WideBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3 x 3 convolutions, dropout between them.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the first convolution and the shortcut.
        dropout: probability of dropping a value.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(
            conv(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Dropout(dropout),
            conv(outputs, outputs, 3),
        )
        self.shortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, images: Tensor) -> Tensor:
        """`[N, inputs, H, W]` to `[N, outputs, H / stride, W / stride]`."""
        before = self.before(images)
        # where the shape changes, the shortcut too starts behind BatchNorm and ReLU, as in the authors' code
        return self.residual(before) + (images if self.shortcut is None else self.shortcut(before))


class WideResNet(nn.Module):
    """WRN-depth-widen: three groups of wide blocks.

    Args:
        channels: channels of the images.
        size: side of the images in pixels.
        classes: number of classes.
        depth: number of convolutions on the longest path, 6 n + 4.
        widen: how many times wider than a plain residual network.
        dropout: probability of dropping a value inside a block.
    """

    def __init__(self, channels: int, size: int, classes: int, depth: int, widen: int, dropout: float) -> None:
        super().__init__()
        require_size(size, at_least=8)
        if depth < 10 or depth % 6 != 4:
            raise UsageError(f"model.depth must be 6 n + 4 with n >= 1, received {depth}; set model.depth=28")
        inputs, blocks = 16, list[nn.Module]()
        for group in range(3):
            for block in range((depth - 4) // 6):
                outputs = (16 << group) * widen
                blocks.append(WideBlock(inputs, outputs, 2 if group and not block else 1, dropout))
                inputs = outputs
        self.stem = conv(channels, 16, 3)
        self.blocks = nn.Sequential(*blocks, nn.BatchNorm2d(inputs), nn.ReLU())
        self.head = classifier(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` float to logits `[N, classes]`."""
        return self.head(self.blocks(self.stem(images)))
