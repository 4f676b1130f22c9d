"""A labelled set of images of one size."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images and labels, row by row.

    Attributes:
        pixels: `[N, C, H, W]` uint8.
        labels: `[N]` int64, each in `range(classes)`.
        classes: how many classes there are, whether or not each occurs.
        names: what the classes are called, where they are called anything.
    """

    pixels: Tensor
    labels: Tensor
    classes: int
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: Tensor) -> "Images":
        """The rows `indices` (`[M]` int64), in that order."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def with_labels(self, labels: Tensor) -> "Images":
        """The same pixels under other labels (`[N]` int64)."""
        return replace(self, labels=labels)

    def with_pixels(self, pixels: Tensor) -> "Images":
        """Other pixels (`[N, C, H, W]` uint8) under the same labels."""
        return replace(self, pixels=pixels)

    def followed_by(self, others: "Images") -> "Images":
        """These rows, then those of `others`."""
        return replace(
            self, pixels=torch.cat([self.pixels, others.pixels]), labels=torch.cat([self.labels, others.labels])
        )

    def name(self, label: int) -> str:
        """What a class is called, or its number."""
        return self.names[label] if self.names else str(label)
