"""One training run, from a config to its summary."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ProgressBar

from experiments import environment, flops
from experiments.build import build
from experiments.callbacks import Budget, LearningCurve, LearningRate, Meter
from experiments.classifier import Classifier
from experiments.data import ImageData, Images, Source
from experiments.errors import UsageError
from experiments.files import write_json
from experiments.lightning_manners import quiet, real_interrupts
from experiments.threads import threads

SUMMARY = "summary.json"
CURVE = "curve.csv"


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        config: as composed from `conf/train.yaml`.
        choices: the option chosen in each config group.
        overrides: the command line that makes `config`.
        out: an existing folder for `summary.json`, `curve.csv` and the logger's files.
    """

    config: DictConfig
    choices: dict[str, str]
    overrides: list[str]
    out: Path


def run(
    request: Request, parts: tuple[Images, Images] | None = None, watchers: tuple[Callback, ...] = ()
) -> dict[str, Any]:
    """Trains, tests once after the last epoch, and writes `summary.json` and `curve.csv`.

    Args:
        request: what to run.
        parts: the clean training and test set, where they are at hand already.
        watchers: further callbacks, such as a progress display.

    Returns:
        The summary.

    Raises:
        UsageError: bad input, before any training step.
        KeyboardInterrupt: after Ctrl-C; nothing but the curve so far is written then.
    """
    config = request.config
    source: Source = build(config, "data")
    seed_everything(config.seed, workers=True, verbose=False)
    data = ImageData(source, config.seed, parts)
    _, channels, _, size = data.train.pixels.shape
    net = build(config, "model", channels=channels, size=size, classes=data.train.classes)
    operations = flops.count(net, channels, size)
    build(config, "optimizer", params=net.parameters())  # refuses bad settings here, before there is a Trainer
    module = Classifier(net, build(config, "optimizer"), config.channels_last)
    selection: Callback | None = build(config, "selection")
    meter = Meter(selection)
    budget = Budget(config.unit, config.trainer.max_epochs, meter)
    curve = LearningCurve(request.out / CURVE, meter)
    rate = LearningRate(build(config, "schedule"), budget)
    # the selection stands first, so that its counters are up to date when the others look
    callbacks = [*filter(None, [selection]), meter, budget, rate, curve, *watchers]
    _require_batches(data, config.trainer)
    with quiet(), real_interrupts(), threads(config.threads, source.batch_size * operations.training):
        trainer: Trainer = build(
            config,
            "trainer",
            callbacks=callbacks,
            logger=build(config, "logger") or False,
            enable_progress_bar=any(isinstance(watcher, ProgressBar) for watcher in watchers),
        )
        trainer.fit(module, datamodule=data)
        (tested,) = trainer.test(module, datamodule=data, verbose=False)
    summary = {
        **{group: request.choices[group] for group in ("data", "model", "selection")},
        "seed": config.seed,
        "test_accuracy": tested["test/accuracy"],
        "test_loss": tested["test/loss"],
        **_costs(meter, operations),
        **_circumstances(request, data, module),
    }
    write_json(request.out / SUMMARY, summary)
    return summary


def _costs(meter: Meter, operations: flops.Flops) -> dict[str, Any]:
    """What training took; the seconds of its parts only where a selection callback measured them."""
    tally = meter.tally
    counters: Any = getattr(meter.selection, "counters", None)
    parts = ("scoring_seconds", "selection_seconds", "training_seconds") if counters else ()
    return {
        "seconds": meter.seconds,
        "cpu_seconds": meter.cpu_seconds,
        "candidates_seen": tally.seen,
        "examples_scored": tally.scored,
        "examples_trained": tally.trained,
        "optimizer_steps": tally.steps,
        "flops": operations.of(tally),
        "flops_forward": operations.forward,
        "flops_training": operations.training,
        **{part: getattr(counters, part) for part in parts},
    }


def _circumstances(request: Request, data: ImageData, module: LightningModule) -> dict[str, Any]:
    """What one needs to know beside the result, and to repeat it."""
    config = request.config
    return {
        "budget": {"unit": config.unit, "epochs": config.trainer.max_epochs},
        "keep": config.keep,
        "schedule": request.choices["schedule"],
        "optimizer": request.choices["optimizer"],
        "label_noise": data.source.label_noise,
        "duplicates": data.source.duplicates,
        "train_examples": len(data.train),
        "test_examples": len(data.test),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "learning_curve": CURVE,
        "learning_curve_on": "test set" if data.curve is data.test else "validation split",
        "command": shlex.join(["python", "-m", "experiments.train", *request.overrides]),
        "environment": environment.describe(),
    }


def _require_batches(data: ImageData, trainer: DictConfig) -> None:
    """Refuses a run that would end without a training step, which Lightning passes over in silence.

    Raises:
        UsageError: no epoch, or no batch in it.
    """
    epochs, limit = trainer.max_epochs, trainer.get("limit_train_batches", 1.0)
    if not isinstance(epochs, int) or epochs < 1:
        raise UsageError(f"training needs at least 1 epoch, received trainer.max_epochs={epochs}; raise it")
    batches, source = len(data.train_dataloader()), data.source
    if not batches:
        raise UsageError(
            f"an epoch needs at least 1 batch, received data.drop_last={source.drop_last} with "
            f"data.batch_size={source.batch_size} and {len(data.train)} training examples; set data.drop_last=false "
            f"or a smaller data.batch_size"
        )
    limited = math.floor(batches * limit) if isinstance(limit, float) else min(batches, limit)
    if limited < 1:
        raise UsageError(
            f"an epoch needs at least 1 batch, received trainer.limit_train_batches={limit} of {batches} batches; "
            f"set it to 1.0 for all of them"
        )
