"""ResNet in its form for CIFAR.

He et al., 2015, "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385; the stem for 32 x 32
images (one 3 x 3 convolution, no pooling) is that of kuangliu/pytorch-cifar, which the Selective-Backprop paper used.
"""

from torch import Tensor, nn

from experiments.models.blocks import BasicBlock, classifier, conv_norm
from experiments.models.size import require_size


class ResNet(nn.Module):
    """A stem and four stages of basic blocks.

    Args:
        channels: channels of the images.
        size: side of the images in pixels.
        classes: number of classes.
        blocks: basic blocks in each stage; [2, 2, 2, 2] is ResNet-18. Every stage after the first halves the size.
        width: channels of the first stage; every later one doubles them.
    """

    def __init__(self, channels: int, size: int, classes: int, blocks: list[int], width: int) -> None:
        super().__init__()
        require_size(size, at_least=8)
        self.stem = nn.Sequential(conv_norm(channels, width, 3), nn.ReLU())
        inputs, stages = width, list[nn.Module]()
        for stage, count in enumerate(blocks):
            for block in range(count):
                outputs = width << stage
                stages.append(BasicBlock(inputs, outputs, stride=2 if stage and not block else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = classifier(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` float to logits `[N, classes]`."""
        return self.head(self.stages(self.stem(images)))
