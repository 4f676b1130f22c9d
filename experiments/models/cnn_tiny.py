"""A convolutional network for models that are trained by the dozen, as those inside a rater's training are."""

from torch import Tensor, nn

from experiments.models.size import require_size


class CnnTiny(nn.Module):
    """Three convolutions of stride 2, doubling the channels, and a linear layer on all positions.

    Without normalisation: its second derivatives are cheap, and no example depends on the batch that it is in.

    Args:
        channels: channels of the images.
        size: side of the images in pixels.
        classes: number of classes.
        width: channels of the first convolution.
    """

    def __init__(self, channels: int, size: int, classes: int, width: int) -> None:
        super().__init__()
        require_size(size, at_least=8)
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
        side = -(-size // 8)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * side**2, classes))

    def forward(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` float to logits `[N, classes]`."""
        return self.layers(images)
