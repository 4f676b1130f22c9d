"""Street View House Numbers.

Netzer et al., 2011, "Reading Digits in Natural Images with Unsupervised Feature Learning".
"""

from dataclasses import dataclass

import torch
from torchvision import datasets

from experiments.data.images import Images
from experiments.data.source import Source
from experiments.data.torchvision_files import open_files


@dataclass(frozen=True, kw_only=True)
class Svhn(Source):
    """73,257 training and 26,032 test images of 32 x 32 pixels in colour, in 10 classes.

    Attributes:
        root: folder that holds, or receives, `train_32x32.mat`, `test_32x32.mat` and, with `extra`, `extra_32x32.mat`.
        download: whether missing files are fetched.
        extra: whether the 531,131 additional, easier images join the training set, as in the paper.
    """

    root: str
    download: bool
    extra: bool

    def read(self) -> tuple[Images, Images]:
        """The two parts, as `[N, 3, 32, 32]` uint8."""
        parts = [self._part(split) for split in (["train", "extra"] if self.extra else ["train"])]
        train = Images(
            torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]), classes=10
        )
        return train, self._part("test")

    def _part(self, split: str) -> Images:
        files = open_files(lambda: datasets.SVHN(self.root, split, download=self.download), self.root, self.download)
        return Images(torch.from_numpy(files.data), torch.from_numpy(files.labels).long(), classes=10)
