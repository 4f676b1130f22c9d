"""CIFAR-10 and CIFAR-100.

Krizhevsky, 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from dataclasses import dataclass

import torch
from torchvision import datasets

from experiments.data.images import Images
from experiments.data.source import Source
from experiments.data.torchvision_files import open_files
from experiments.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Cifar(Source):
    """50,000 training and 10,000 test images of 32 x 32 pixels in colour.

    Attributes:
        classes: 10 or 100.
        root: folder that holds, or receives, `cifar-10-batches-py` or `cifar-100-python`.
        download: whether missing files are fetched.
    """

    classes: int
    root: str
    download: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes not in (10, 100):
            raise UsageError(f"data.classes must be 10 or 100, received {self.classes}; set data.classes=10")

    def read(self) -> tuple[Images, Images]:
        """The two parts, as `[N, 3, 32, 32]` uint8."""
        return self._part(train=True), self._part(train=False)

    def _part(self, train: bool) -> Images:
        kind = datasets.CIFAR10 if self.classes == 10 else datasets.CIFAR100
        files = open_files(lambda: kind(self.root, train, download=self.download), self.root, self.download)
        pixels = torch.from_numpy(files.data).permute(0, 3, 1, 2).contiguous()
        return Images(pixels, torch.tensor(files.targets), self.classes, tuple(files.classes))
