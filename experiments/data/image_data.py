"""The DataModule: images in memory, augmented on the device, batch by batch."""

import copy
import hashlib
from typing import Any, cast

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, WeightedRandomSampler

from experiments.data.augment import crop_and_flip, cutout
from experiments.data.corruption import copies, keep_for_duplication, split, thinned
from experiments.data.images import Images
from experiments.data.rows import Batch, Rows, unchanged
from experiments.data.source import Source
from experiments.data.spoilt import Spoilt
from experiments.data.statistics import channel_statistics

EVALUATION_BATCH = 500  # rows; evaluation keeps no graph, so it affords more than training


class ImageData(LightningDataModule):
    """Serves a `Source` as normalised, augmented batches.

    Order and augmentation are drawn from generators of their own, seeded by `seed` alone: two arms of a comparison
    see the same batches however much randomness their models and selectors use. Their states are in the checkpoint,
    so a run resumed between epochs goes on as it would have.

    Args:
        source: what to read, and how to treat it.
        seed: decides order and augmentation.
        parts: the clean training set and the test set, where they are at hand already; else `source` reads them.

    Attributes:
        train: the training set after its corruption.
        nominal_rows: of the training set, before corrupted rows were left out.
        example: `[N]` int64, which example each training row is; copies have it in common.
        true_labels: `[N]` int64, the labels of the training rows before any was made wrong.
        corrupted: `[N]` bool, the training rows with a wrong label or spoilt pixels.
        heldout: what is set aside to judge training data; empty without `data.heldout_fraction`.
        curve: the set that learning curves are measured on: the validation split, or the test set if there is none.
        test: the test set.
    """

    def __init__(self, source: Source, seed: int, parts: tuple[Images, Images] | None = None) -> None:
        super().__init__()
        self.source = source
        clean, self.test = parts or source.read()
        draw = torch.Generator().manual_seed(source.corruption_seed)
        whole, held_out = split(clean, source.val_fraction, draw)
        self.curve = held_out if len(held_out) else self.test
        whole, judges = split(whole, source.heldout_fraction, draw) if source.heldout_fraction else (whole, None)
        whole = thinned(whole, source.train_examples, source.imbalance, draw)
        distinct = whole if source.duplicates == 1 else keep_for_duplication(whole, source.duplicates, draw)
        spoilt = Spoilt.of(distinct, source, draw)
        self.example = copies(len(distinct), source.duplicates, size=len(whole))
        rows = spoilt.rows(self.example)
        judges = whole.rows(torch.arange(0)) if judges is None else judges
        heldout = Spoilt.untouched(judges) if source.heldout_clean else Spoilt.of(judges, source, draw)
        self.heldout = heldout.images
        if source.heldout_trained:
            rows = rows.followed_by(heldout)
            self.example = torch.cat([self.example, len(distinct) + torch.arange(len(judges))])
        self.nominal_rows = len(rows.images)
        if source.only_clean:
            clean_rows = (~rows.corrupted).nonzero().squeeze(1)
            rows, self.example = rows.rows(clean_rows), self.example[clean_rows]
        self.train, self.true_labels, self.corrupted = rows.images, rows.true_labels, rows.corrupted
        self.mean, self.std = channel_statistics(self.train.pixels)
        self._seed_generators(seed)

    def _seed_generators(self, seed: int) -> None:
        self.seed = seed
        self.order = torch.Generator().manual_seed(seed)
        self.augmentation_seed = seed + 2**32  # another stream than the order's
        self.augmentation: torch.Generator | None = None

    def training_on(self, images: Images) -> "ImageData":
        """The same in all else, generators at their start, but for the training set."""
        part = copy.copy(self)
        part.train = images
        part._seed_generators(self.seed)
        return part

    def fingerprint(self) -> str:
        """A digest of the training set, in its order: what a row number means depends on all of it."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (self.train.labels, self.train.pixels):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of candidates."""
        sampler = self._balanced() if self.source.class_balanced else None
        drop_last = self.source.drop_last
        return self._loader(self.train, shuffle=True, sampler=sampler, drop_last=drop_last, generator=self.order)

    def _balanced(self) -> Sampler[int]:
        """Rows with replacement, those of rare classes the more often."""
        labels = self.train.labels
        weights = 1 / torch.bincount(labels).double()[labels]
        return WeightedRandomSampler(weights.tolist(), len(labels), generator=self.order)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The set of the learning curve."""
        return self._loader(self.curve)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test set."""
        return self._loader(self.test)

    def heldout_dataloader(self) -> DataLoader[Batch]:
        """What judges training data: shuffled batches, of a stream of their own."""
        draw = torch.Generator().manual_seed(self.seed + 2**33)
        return self._loader(self.heldout, shuffle=True, generator=draw)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments (in training only) and normalises: `image` becomes `[N, C, H, W]` float32."""
        source, image = self.source, batch["image"]
        training = cast(Any, self.trainer).training
        draw = self._augmentation_on(image.device)
        if training and (source.crop or source.flip):
            image = crop_and_flip(image, source.crop, source.flip, draw)
        image = self.normalised(image)
        if training and source.cutout:
            image = cutout(image, source.cutout, draw)
        return {**batch, "image": image}

    def normalised(self, pixels: Tensor) -> Tensor:
        """`[N, C, H, W]` uint8 to float32 of mean 0 and standard deviation 1 over the training set."""
        return (pixels / 255 - self.mean.to(pixels.device)) / self.std.to(pixels.device)

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the generators."""
        states = {"order": self.order.get_state()}
        return states if self.augmentation is None else {**states, "augmentation": self.augmentation.get_state()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        self.order.set_state(state_dict["order"])
        if "augmentation" in state_dict:
            device = cast(Any, self.trainer).strategy.root_device
            self._augmentation_on(device).set_state(state_dict["augmentation"])

    def _augmentation_on(self, device: torch.device) -> torch.Generator:
        """The generator of augmentation, made where the images are: which device that is shows only in training."""
        if self.augmentation is None:
            self.augmentation = torch.Generator(device).manual_seed(self.augmentation_seed)
        return self.augmentation

    def _loader(
        self,
        images: Images,
        shuffle: bool = False,
        sampler: Sampler[int] | None = None,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> DataLoader[Batch]:
        if self.source.on_device and self.trainer is not None:
            device = self.trainer.strategy.root_device
            images = Images(images.pixels.to(device), images.labels.to(device), images.classes)
        return DataLoader(
            Rows(images),
            batch_size=self.source.rows_at_once if shuffle else max(self.source.batch_size, EVALUATION_BATCH),
            shuffle=shuffle and sampler is None,
            sampler=sampler,
            drop_last=drop_last,
            generator=generator,
            collate_fn=unchanged,
        )
