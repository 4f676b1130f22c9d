"""What is not loaded costs nothing: rows that are chosen before they are decoded."""

import io
from collections.abc import Sequence
from fractions import Fraction
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import Dataset

from experiments.lightning_manners import quiet
from experiments.records import Row
from experiments.step_costs.choices import chosen_in_turns
from experiments.step_costs.clock import clock
from experiments.step_costs.fit import fit
from experiments.step_costs.models import CLASSES, SIDE, Subject
from experiments.step_costs.options import OPTIONS, selection
from experiments.step_costs.step_times import StepTimes


class Photographs(Dataset[Any]):
    """JPEGs in memory, decoded and made small when they are asked for.

    Args:
        count: how many.
        side: in pixels.

    Attributes:
        decoded: how many have been asked for.
    """

    def __init__(self, count: int, side: int) -> None:
        noise = np.random.default_rng(0)
        self.files = [_jpeg(noise.integers(256, size=(8, 8, 3), dtype=np.uint8), side) for _ in range(count)]
        self.decoded = 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.decoded += 1
        with Image.open(io.BytesIO(self.files[index])) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32)
        return torch.from_numpy(pixels / 255).permute(2, 0, 1), index % CLASSES


def _jpeg(pixels: np.ndarray[Any, Any], side: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


class _Decoded(Callback):
    """Counts the rows that are decoded in the last epoch."""

    def __init__(self, data: Photographs) -> None:
        self._data, self._before = data, 0

    @property
    def rows(self) -> int:
        """How many."""
        return self._data.decoded - self._before

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The count begins; what it was in earlier epochs is forgotten."""
        self._before = self._data.decoded


def measure(
    subject: Subject, options: Sequence[str], keep: Fraction, *, batches: int, side: int, rounds: int, device: str
) -> list[Row]:
    """A row for each option: time of a candidate and rows decoded, beside plain training in the same round.

    Args:
        subject: the network, which is small.
        options: names.
        keep: kept fraction.
        batches: of an epoch.
        side: of the photographs, in pixels.
        rounds: in each of which every option trains once.
        device: "cpu" or "cuda".
    """
    torch.manual_seed(0)
    data, learner = Photographs(subject.rows * batches, side), subject.learner()
    found: dict[str | None, list[float]] = {None: [], **{name: [] for name in options}}
    shares = dict[str | None, float]()
    for _ in range(rounds):
        for name, seconds in found.items():
            option = None if name is None else OPTIONS[name]
            times, decoded = StepTimes(clock(device), discard=2), _Decoded(data)
            selects, epochs = selection(option, float(keep), subject)
            callbacks: list[Callback] = [times, decoded, *selects]
            with quiet(), chosen_in_turns(0):
                fit(learner, data, subject.rows, callbacks, device=device, precision="fp32", epochs=epochs)
            seconds.append(median(times.seconds))
            shares[name] = decoded.rows / len(data)
    rows: list[Row] = []
    for name, seconds in found.items():
        ratio = median([own / plain for own, plain in zip(seconds, found[None], strict=True)])
        rows.append(
            {
                "option": name or "plain", "keep": str(keep),
                "candidate_us": f"{1e6 * median(seconds) / subject.rows:.1f}",
                "ratio": f"{ratio:.4f}", "decoded": f"{shares[name]:.4f}", "side": str(side), "n": str(subject.rows),
            }
        )  # fmt: skip
    return rows
