"""Trains models on some examples and writes down their losses on others."""

import logging
import shlex
from pathlib import Path

import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from experiments import flops
from experiments.batches import require_batches
from experiments.budgets import rows_of_epoch
from experiments.build import build
from experiments.callbacks import Cost, Meter, Tally
from experiments.classifier import Classifier
from experiments.data import ImageData, Images
from experiments.data.corruption import flip_labels
from experiments.errors import UsageError
from experiments.irreducible.lowest_loss import LowestLoss
from experiments.irreducible.table import write_table
from experiments.lightning_manners import quiet, real_interrupts
from experiments.threads import threads
from litselect.callbacks import Budget, BudgetSchedule

SCORINGS = 4  # of the training set, by a model of the held-out part: each costs a third of an epoch

log = logging.getLogger(__name__)


def make_table(
    config: DictConfig,
    path: Path,
    parts: tuple[Images, Images],
    cross_fit: bool | None = None,
    watchers: tuple[Callback, ...] = (),
    command: tuple[str, ...] = (),
    by_accuracy: bool = False,
) -> Cost:
    """Computes the irreducible loss of every training example and writes the table.

    Draws nothing from the random streams of whoever calls it.

    Args:
        config: as composed from `conf/train.yaml`; what it says of the selection is not looked at.
        path: where the table goes.
        parts: the clean training and test set.
        cross_fit: two models, each trained on one half of the training set, score the half that they have not seen,
            copies of an example always on one side. Otherwise one model scores the training set: trained on the
            held-out part, or, where there is none, on the validation split under as much label noise as the training
            set has. By default wherever there is no held-out part.
        watchers: further callbacks, such as a progress display.
        command: what made it, for the file.
        by_accuracy: see `LowestLoss`.

    Returns:
        What it took, which is in the file as well.

    Raises:
        UsageError: there is nothing to train on, or no example to score.
    """
    data = ImageData(build(config, "data"), config.seed, parts)
    cross_fit = not len(data.heldout) if cross_fit is None else cross_fit
    losses = torch.full((len(data.train),), torch.nan)
    cost = Cost()
    with isolate_rng():
        for part, (images, rows) in enumerate(_halves(data, config.seed) if cross_fit else _held_out(data)):
            found, spent = _fit(config, data, images, data.train.rows(rows), config.seed + part, watchers, by_accuracy)
            losses[rows], cost = found, cost + spent
    facts = {"cross_fit": str(cross_fit), "command": shlex.join(command)}
    write_table(path, losses, cost, data.fingerprint(), facts)
    log.info("irreducible losses of %d examples, mean %.4f, took %.1f s", len(losses), losses.mean(), cost.seconds)
    return cost


def _halves(data: ImageData, seed: int) -> list[tuple[Images, Tensor]]:
    """Twice the images of one half, and the rows of the other; copies of an example lie in the same half."""
    examples = int(data.example.max()) + 1
    if examples < 2:
        raise UsageError(f"two halves need at least 2 different examples, received {examples}; use more data")
    first = torch.zeros(examples, dtype=torch.bool)
    first[torch.randperm(examples, generator=torch.Generator().manual_seed(seed))[: examples // 2]] = True
    inside, outside = (mask[data.example].nonzero().squeeze(1) for mask in (first, ~first))
    return [(data.train.rows(inside), outside), (data.train.rows(outside), inside)]


def _held_out(data: ImageData) -> list[tuple[Images, Tensor]]:
    """The held-out part or else the validation split, and all rows of the training set."""
    if len(data.heldout):
        return [(data.heldout, torch.arange(len(data.train)))]
    if data.curve is data.test:
        raise UsageError(
            "a model of irreducible losses is trained on a held-out part, received data.val_fraction=0.0; set it, here "
            "and for the runs that use the table, or data.heldout_fraction, or cross_fit=true"
        )
    draw = torch.Generator().manual_seed(data.source.corruption_seed + 1)  # apart from the training set's own draws
    return [(flip_labels(data.curve, data.source.label_noise, draw), torch.arange(len(data.train)))]


def _fit(
    config: DictConfig,
    data: ImageData,
    images: Images,
    unseen: Images,
    seed: int,
    watchers: tuple[Callback, ...],
    by_accuracy: bool,
) -> tuple[Tensor, Cost]:
    """Trains on `images`; answers with the losses `[M]` of `unseen`, and what it all took."""
    seed_everything(seed, verbose=False)
    part = data.training_on(images)
    require_batches(part, config.trainer)
    _, channels, _, size = images.pixels.shape
    net = build(config, "model", channels=channels, size=size, classes=images.classes)
    operations = flops.count(net, channels, size)
    module = Classifier(net, build(config, "optimizer"), config.channels_last)
    epochs = _epochs(config.trainer.max_epochs, data, images)
    every = max(1, epochs // SCORINGS) if images is data.heldout else 1
    meter, lowest = Meter(None), LowestLoss(part, unseen, every, by_accuracy)
    budget, rate = (
        Budget(candidates=epochs * rows_of_epoch(config, len(images))),
        BudgetSchedule(build(config, "schedule")),
    )
    with quiet(), real_interrupts(), threads(config.threads, data.source.batch_size * operations.training):
        trainer: Trainer = build(
            config,
            "trainer",
            callbacks=[meter, budget, rate, lowest, *watchers],
            max_epochs=epochs,
            logger=False,
            limit_val_batches=0,
            enable_progress_bar=any(isinstance(watcher, ProgressBar) for watcher in watchers),
        )
        trainer.fit(module, datamodule=part)
    trained = meter.tally
    tally = Tally(trained.seen + lowest.scored, lowest.scored, trained.trained, trained.steps)
    return lowest.losses, Cost(tally, meter.seconds, meter.cpu_seconds, operations.of(tally))


def _epochs(epochs: int, data: ImageData, images: Images) -> int:
    """As many as the runs have; more on a small held-out part, until a quarter of their rows have been trained."""
    return max(epochs, round(epochs * len(data.train) / len(images) / 4)) if images is data.heldout else epochs
