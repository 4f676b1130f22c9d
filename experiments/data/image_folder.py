"""Images in folders: `train/<class>/*` and `val/<class>/*`."""

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision import datasets

from experiments.data.decode import decode
from experiments.data.decoded_cache import DecodedCache
from experiments.data.images import Images
from experiments.data.source import Source
from experiments.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Source):
    """Any images sorted into one folder per class, `val` serving as the test set.

    Files are decoded once. The pixels are cached in `root` (`.litselect-*.safetensors`); where that cannot be written,
    a warning says so and every run decodes anew.

    Attributes:
        root: folder that holds `train` and `val`.
        size: side in pixels that images are resized to, or None if all of them are squares of one size already.
        cache: whether to read and write the cache.
    """

    root: str
    size: int | None
    cache: bool

    def read(self) -> tuple[Images, Images]:
        """The two parts, as `[N, 3, size, size]` uint8."""
        train_classes, val_classes = (self._listing(part).classes for part in ("train", "val"))
        if train_classes != val_classes:
            raise UsageError(
                f"{self.root}/train and {self.root}/val must hold the same classes, received {train_classes} and "
                f"{val_classes}; add or remove class folders"
            )
        return self._part("train"), self._part("val")

    def _listing(self, part: str) -> datasets.ImageFolder:
        try:
            return datasets.ImageFolder(str(Path(self.root) / part))
        except OSError as error:
            raise UsageError(
                f"data.root must hold train/<class>/* and val/<class>/* with images, received "
                f"data.root={self.root}: {error}; set data.root to the unpacked folder"
            ) from error

    def _part(self, part: str) -> Images:
        listing = self._listing(part)
        files = [Path(path) for path, _ in listing.samples]
        cache = DecodedCache(Path(self.root) / f".litselect-{part}-{self.size or 'original'}.safetensors", files)
        images = cache.read() if self.cache else None
        if images is None:
            images = Images(decode(files, self.size), torch.tensor(listing.targets), classes=len(listing.classes))
            if self.cache:
                self._write(cache, images)
        return dataclasses.replace(images, names=tuple(listing.classes))

    def _write(self, cache: DecodedCache, images: Images) -> None:
        try:
            cache.write(images)
        except OSError as error:
            warnings.warn(
                f"the decoded images cannot be kept in {cache.path} ({error}), so every run decodes them anew; make "
                f"the folder writable, or silence this with data.cache=false",
                stacklevel=2,
            )
