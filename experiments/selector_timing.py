"""What an epoch of a selection takes, relative to plain training."""

from dataclasses import dataclass
from time import process_time
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from experiments.build import build
from experiments.classifier import Classifier
from experiments.data import ImageData, Images
from experiments.lightning_manners import quiet, real_interrupts

SCALE = 2  # 8 x 8 digits become 16 x 16


class Epochs(Callback):
    """Notes the processor time and the rows scored at the end of every epoch.

    Args:
        selection: whose counters are read, or None.
    """

    def __init__(self, selection: Callback | None) -> None:
        self.selection: Any = selection
        self.seconds: list[float] = []
        self.scored: list[int] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes them."""
        self.seconds.append(process_time())
        self.scored.append(self.selection.counters.scored if self.selection is not None else 0)


@dataclass(frozen=True)
class Measured:
    """One training, without its first epoch, which often selects nothing yet, and its last, which may anneal.

    Attributes:
        seconds: processor seconds of the epochs between.
        scored: forward passes of scoring in them, for each incoming row.
    """

    seconds: float
    scored: float


def measure(config: DictConfig, parts: tuple[Images, Images], selection: Callback | None) -> Measured:
    """Trains once on one thread, without evaluation.

    Args:
        config: as composed from `conf/train.yaml`.
        parts: training and test set.
        selection: what selects, or None.
    """
    seed_everything(config.seed, verbose=False)
    data = ImageData(build(config, "data"), config.seed, parts)
    _, channels, _, size = data.train.pixels.shape
    net = build(config, "model", channels=channels, size=size, classes=data.train.classes)
    epochs = Epochs(selection)
    threads = torch.get_num_threads()
    with quiet(), real_interrupts():
        trainer: Trainer = build(
            config,
            "trainer",
            callbacks=[*filter(None, [selection]), epochs],
            accelerator="cpu",
            logger=False,
            limit_val_batches=0,
            enable_progress_bar=False,
        )
        torch.set_num_threads(1)  # threads that wait for each other spend processor time too
        try:
            trainer.fit(Classifier(net, build(config, "optimizer"), config.channels_last), datamodule=data)
        finally:
            torch.set_num_threads(threads)
    rows = len(data.train) * (len(epochs.seconds) - 2)
    return Measured(epochs.seconds[-2] - epochs.seconds[0], (epochs.scored[-2] - epochs.scored[0]) / rows)


def enlarged(parts: tuple[Images, Images], rows: int) -> tuple[Images, Images]:
    """The first `rows` training images and the test images, every pixel a square: a network takes its usual time."""
    train, test = parts[0].rows(torch.arange(min(rows, len(parts[0])))), parts[1]
    large = [
        Images(part.pixels.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3), part.labels, part.classes)
        for part in (train, test)
    ]
    return large[0], large[1]
