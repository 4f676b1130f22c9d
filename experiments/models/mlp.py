"""A multilayer perceptron."""

from torch import Tensor, nn


class Mlp(nn.Module):
    """Flattens the image; `depth` hidden layers of `width` ReLU units; a linear classifier.

    Args:
        channels: channels of the images.
        size: side of the images in pixels.
        classes: number of classes.
        width: units of a hidden layer.
        depth: number of hidden layers.
        dropout: probability of dropping a hidden unit.
    """

    def __init__(self, channels: int, size: int, classes: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        units = channels * size * size
        for _ in range(depth):
            layers += [nn.Linear(units, width), nn.ReLU(), nn.Dropout(dropout)]
            units = width
        self.layers = nn.Sequential(*layers, nn.Linear(units, classes))

    def forward(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` float to logits `[N, classes]`."""
        return self.layers(images)
