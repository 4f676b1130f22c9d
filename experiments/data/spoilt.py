"""Images of which it is known what was done to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.data.corruption import flip_labels, shuffle_pixels
from experiments.data.images import Images
from experiments.data.source import Source


@dataclass(frozen=True)
class Spoilt:
    """Images and the truth about them, row by row.

    Attributes:
        images: as they are now.
        true_labels: `[N]` int64, the labels before any was made wrong.
        corrupted: `[N]` bool, the rows with a wrong label or spoilt pixels.
    """

    images: Images
    true_labels: Tensor
    corrupted: Tensor

    @classmethod
    def of(cls, clean: Images, source: Source, generator: torch.Generator) -> "Spoilt":
        """Corrupts `clean` as `source` says."""
        labelled = flip_labels(clean, source.label_noise, generator)
        images, ruined = shuffle_pixels(labelled, source.pixel_noise, generator)
        return cls(images, clean.labels, ruined | (labelled.labels != clean.labels))

    @classmethod
    def untouched(cls, clean: Images) -> "Spoilt":
        """Leaves `clean` alone."""
        return cls(clean, clean.labels, torch.zeros(len(clean), dtype=torch.bool))

    def rows(self, indices: Tensor) -> "Spoilt":
        """The rows `indices` (`[M]` int64), in that order."""
        return Spoilt(self.images.rows(indices), self.true_labels[indices], self.corrupted[indices])

    def followed_by(self, others: "Spoilt") -> "Spoilt":
        """These rows, then those of `others`."""
        return Spoilt(
            self.images.followed_by(others.images),
            torch.cat([self.true_labels, others.true_labels]),
            torch.cat([self.corrupted, others.corrupted]),
        )
