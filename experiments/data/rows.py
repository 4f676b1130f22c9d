"""A map-style data set that hands out whole batches."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from experiments.data.images import Images

Batch = dict[str, Tensor]


class Rows(Dataset[Batch]):
    """Fetches a batch by one indexing operation instead of one call per example.

    A batch is `{"image": [N, C, H, W] uint8, "label": [N] int64, "index": [N] int64}`, where `index` is the row in the
    training set: what per-example memory needs.
    """

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of the rows `indices`; the DataLoader prefers this to `__getitem__`."""
        rows = torch.tensor(indices, device=self.images.pixels.device)
        return {"image": self.images.pixels[rows], "label": self.images.labels[rows], "index": rows}


def unchanged(batch: Any) -> Any:
    """Collates nothing, since `Rows` hands out whole batches."""
    return batch
