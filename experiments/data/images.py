"""A labelled set of images of one size."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images and labels, row by row.

    Attributes:
        pixels: `[N, C, H, W]` uint8.
        labels: `[N]` int64, each in `range(classes)`.
        classes: how many classes there are, whether or not each occurs.
    """

    pixels: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: Tensor) -> "Images":
        """The rows `indices` (`[M]` int64), in that order."""
        return Images(self.pixels[indices], self.labels[indices], self.classes)

    def with_labels(self, labels: Tensor) -> "Images":
        """The same pixels under other labels (`[N]` int64)."""
        return Images(self.pixels, labels, self.classes)
