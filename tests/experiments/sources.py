"""Sources with plain settings, for tests to vary."""

from typing import Any

from experiments.data import Digits, Images, Source

PLAIN: dict[str, Any] = {
    "batch_size": 16,
    "candidates": None,
    "drop_last": False,
    "label_noise": 0.0,
    "pixel_noise": 0.0,
    "duplicates": 1,
    "train_examples": None,
    "imbalance": 1.0,
    "only_clean": False,
    "class_balanced": False,
    "corruption_seed": 0,
    "val_fraction": 0.0,
    "heldout_fraction": 0.0,
    "heldout_clean": True,
    "heldout_trained": False,
    "crop": 0,
    "flip": False,
    "cutout": 0,
    "on_device": False,
}


def digits(**changes: Any) -> Digits:
    return Digits(**{**PLAIN, "test_fraction": 0.3, **changes})


class Given(Source):
    """A source whose parts are always handed over."""

    def read(self) -> tuple[Images, Images]:
        raise AssertionError("the parts are given")


def given(**changes: Any) -> Given:
    return Given(**{**PLAIN, **changes})
