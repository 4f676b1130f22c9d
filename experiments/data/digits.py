"""The handwritten digits embedded in scikit-learn: real data that needs no download."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from experiments.data.images import Images
from experiments.data.source import Source


@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """1797 grey images of 8 x 8 pixels in 10 classes, a third of them held out for testing.

    Attributes:
        test_fraction: fraction held out for testing, stratified by class, the same in every run.
    """

    test_fraction: float

    def read(self) -> tuple[Images, Images]:
        """The two parts, as `[N, 1, 8, 8]` uint8."""
        # scikit-learn takes seconds to import, which runs on other data should not pay
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        bunch = cast(Any, load_digits())
        train, test = train_test_split(
            np.arange(len(bunch.target)),
            test_size=self.test_fraction,
            random_state=0,
            stratify=bunch.target,
        )
        pixels = torch.from_numpy(bunch.images * 15).to(torch.uint8).unsqueeze(1)  # 0..16 becomes 0..240
        everything = Images(pixels, torch.from_numpy(bunch.target).long(), classes=10)
        return everything.rows(torch.from_numpy(train)), everything.rows(torch.from_numpy(test))
