"""What every data set has in common: how it is batched, augmented, and corrupted on purpose."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments.data.images import Images
from experiments.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A data set and its treatment.

    Values come from `conf/data` and `conf/shared/images.yaml`, so there are no defaults here.

    Attributes:
        batch_size: rows of a batch of plain training.
        candidates: rows that the loader yields at once, of which a selection trains some; None for `batch_size`, which
            is that of plain training in any case.
        drop_last: whether an incomplete last batch is left out.
        label_noise: fraction of the training labels, 0 to 1, replaced by another class drawn uniformly. Exactly
            `round(label_noise * N)` labels are wrong afterwards. Validation and test labels stay clean.
        pixel_noise: fraction of the training images, 0 to 1, whose pixels are shuffled. Exactly
            `round(pixel_noise * N)` images are spoilt, labels intact, independently of which labels are wrong.
        train_examples: how many examples of the training set are used, drawn at random, each class alike as far as it
            goes; None for all.
        imbalance: examples of the rarest class for each of the commonest, above 0 up to 1; the others lie between on
            an exponential curve, as in long-tailed CIFAR. The test set stays as it is.
        only_clean: whether rows that were corrupted are left out: what an oracle would train. Budgets count them.
        class_balanced: whether rows are drawn with replacement so that each class is as likely; an epoch still yields
            as many rows as there are. The usual remedy for rare classes, to compare with.
        duplicates: copies of every training example. The size of the set is kept: N / duplicates distinct examples
            are drawn and repeated, each with its label, right or wrong.
        corruption_seed: decides which labels are wrong, which images are spoilt, which examples are kept for
            duplication, and the splits. It is apart from the run's seed, so that seeds differ in training alone.
        val_fraction: fraction of the training set, 0 up to but not including 1, that learning curves are measured on
            instead of the test set. It is set aside before any corruption.
        heldout_fraction: fraction of what is left, 0 up to but not including 1, set aside for what judges training
            data, such as a rater. It is neither trained nor reported on.
        heldout_clean: whether these rows stay clean; else they are corrupted like the training set, as in the paper.
        heldout_trained: whether these rows are trained after all: the control of everything that uses them.
        crop: pixels of zero padding before a random crop to the original size; 0 crops nothing.
        flip: whether images are mirrored at random.
        cutout: side in pixels of a square set to the mean at a random place; 0 cuts nothing.
        on_device: whether the images are kept on the training device.
    """

    batch_size: int
    candidates: int | None
    drop_last: bool
    label_noise: float
    pixel_noise: float
    duplicates: int
    train_examples: int | None
    imbalance: float
    only_clean: bool
    class_balanced: bool
    corruption_seed: int
    val_fraction: float
    heldout_fraction: float
    heldout_clean: bool
    heldout_trained: bool
    crop: int
    flip: bool
    cutout: int
    on_device: bool

    def __post_init__(self) -> None:
        _require("batch_size", self.batch_size, int, lambda value: value >= 1, "an integer of at least 1")
        _require("label_noise", self.label_noise, float, lambda value: 0 <= value <= 1, "a number between 0 and 1")
        _require("pixel_noise", self.pixel_noise, float, lambda value: 0 <= value <= 1, "a number between 0 and 1")
        _require("imbalance", self.imbalance, float, lambda value: 0 < value <= 1, "above 0 and at most 1")
        if self.candidates is not None:
            _require("candidates", self.candidates, int, lambda value: value >= 1, "null, or at least 1")
        if self.train_examples is not None:
            _require("train_examples", self.train_examples, int, lambda value: value >= 1, "null, or at least 1")
        _require("duplicates", self.duplicates, int, lambda value: value >= 1, "an integer of at least 1")
        _require("val_fraction", self.val_fraction, float, lambda value: 0 <= value < 1, "at least 0 and below 1")
        _require(
            "heldout_fraction", self.heldout_fraction, float, lambda value: 0 <= value < 1, "at least 0 and below 1"
        )
        if self.heldout_trained and not self.heldout_fraction:
            raise UsageError(
                "data.heldout_trained adds the held-out rows to the training set, received "
                "data.heldout_fraction=0; set it"
            )
        _require("crop", self.crop, int, lambda value: value >= 0, "an integer of at least 0")
        _require("cutout", self.cutout, int, lambda value: value >= 0, "an integer of at least 0")

    @property
    def rows_at_once(self) -> int:
        """Candidates in a batch."""
        return self.batch_size if self.candidates is None else self.candidates

    @property
    def most_rows(self) -> int:
        """Rows that go through a network at once, at most."""
        return max(self.batch_size, self.rows_at_once)

    @abstractmethod
    def read(self) -> tuple[Images, Images]:
        """The clean training set and the test set.

        Raises:
            UsageError: the files are missing, unreadable or malformed.
        """


def _require(name: str, received: Any, kind: type, holds: Callable[[Any], bool], invariant: str) -> None:
    """Raises a `UsageError` that says `invariant` unless `received` is a number of that kind for which it holds."""
    kinds = (int, float) if kind is float else kind
    if isinstance(received, bool) or not isinstance(received, kinds) or not holds(received):
        raise UsageError(f"data.{name} must be {invariant}, received {received!r}; set data.{name}=...")
