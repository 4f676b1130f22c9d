"""Trains a rater and writes it down with what it cost."""

import logging
import shlex
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import seed_everything
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from experiments import flops
from experiments.build import build
from experiments.callbacks import Cost, Tally
from experiments.data import ImageData, Images
from experiments.data.rows import Batch, Rows
from experiments.errors import UsageError
from experiments.rating.curve import RatingCurve
from experiments.rating.folder import RaterFolder
from experiments.rating.meta_training import MetaTraining
from experiments.rating.watched_trainer import WatchedTrainer
from experiments.threads import threads
from litselect.scoring.raters import default_fields, rate

log = logging.getLogger(__name__)
CURVE = "auroc.csv"
REFUSED = "held-out rows of a rater are not trained, received data.heldout_trained=true; leave it out"


def make_rater(
    config: DictConfig, folder: RaterFolder, parts: tuple[Images, Images], command: tuple[str, ...] = ()
) -> Cost:
    """Trains the rater that `config` describes, rates every training example, and writes both into `folder`.

    Draws nothing from the random streams of whoever calls it.

    Args:
        config: as composed from `conf/train.yaml`; what it says of the selection and the optimizer is not looked at.
        folder: where the artifact goes, and the curve `auroc.csv`.
        parts: the clean training and test set.
        command: what made it, for the artifact.

    Returns:
        What it took, which is in the artifact as well.

    Raises:
        UsageError: a setting that cannot be, or held-out rows that are trained.
    """
    data = ImageData(build(config, "data"), config.seed, parts)
    if data.source.heldout_trained:
        raise UsageError(REFUSED)
    meta: MetaTraining = build(config, "meta")
    _, channels, _, size = data.train.pixels.shape
    classes = data.train.classes
    folder.path.mkdir(parents=True, exist_ok=True)
    with isolate_rng():
        seed_everything(config.seed, verbose=False)
        rater: nn.Module = build(config, "rater", channels=channels, classes=classes, examples=len(data.train))

        def inner() -> nn.Module:
            return build(config, "model", channels=channels, size=size, classes=classes)

        def ratings() -> Tensor:
            return _ratings(rater, data)

        curve = RatingCurve(folder.path / CURVE, ratings, data.corrupted)
        trainer = WatchedTrainer(
            rater,
            inner,
            _losses,
            _loader(data, data.train, meta.batch_size),
            _loader(data, data.heldout, meta.batch_size) if len(data.heldout) else meta.heldout,
            **_settings(meta),
            seed=config.seed,
            progress=False,
            watch=lambda done: curve.look(trainer, done),
            every=meta.log_every,
        )
        work = meta.inner_steps * meta.batch_size * flops.count(inner(), channels, size).training
        with threads(config.threads, work):
            artifact = trainer.fit()
            with FlopCounterMode(display=False) as counter:
                scores = ratings()
    cost = _cost(meta, trainer, len(scores), counter.get_total_flops())
    facts = {"auroc": curve.rows[-1]["auroc"], "command": shlex.join(command)}
    folder.write(artifact, scores, cost, data.fingerprint(), facts)
    log.info("a rater took %.3g FLOPs, %.1f s; AUROC %.4f", cost.flops, cost.seconds, facts["auroc"])
    return cost


def _settings(meta: MetaTraining) -> dict[str, Any]:
    names = ("inner_steps", "population", "lifetime", "meta_steps", "meta_lr", "warmup", "inner_optimizer")
    return {name: getattr(meta, name) for name in names}


def _loader(data: ImageData, images: Images, batch_size: int) -> DataLoader[Batch]:
    """Shuffled batches, normalised and not augmented."""

    def normalised(batch: Any) -> Batch:
        return {**batch, "image": data.normalised(batch["image"])}

    whole = len(images) > batch_size  # an incomplete batch would weigh its rows more
    return DataLoader(Rows(images), batch_size, shuffle=True, drop_last=whole, collate_fn=normalised)


def _losses(module: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(module(batch["image"]), batch["label"], reduction="none")


@torch.no_grad()
def _ratings(rater: nn.Module, data: ImageData) -> Tensor:
    """The ratings of all training rows: `[N]`."""
    rater.eval()
    rows = torch.arange(len(data.train)).split(1000)
    found = [rate(rater, default_fields(_batch(data, part))) for part in rows]
    rater.train()
    return torch.cat(found)


def _batch(data: ImageData, rows: Tensor) -> Batch:
    images = data.train.rows(rows)
    return {"image": data.normalised(images.pixels), "label": images.labels, "index": rows}


def _cost(meta: MetaTraining, trainer: WatchedTrainer, rated: int, rating: int) -> Cost:
    """Of all meta-steps, and of rating `rated` rows in `rating` operations."""
    steps = meta.meta_steps * meta.population * meta.inner_steps
    inner, outer = steps * meta.batch_size, meta.meta_steps * meta.population * meta.batch_size
    tally = Tally(seen=inner + outer, scored=inner + rated, trained=inner + outer, steps=steps)
    return Cost(tally, trainer.wall.seconds, trainer.processor.seconds, meta.meta_steps * trainer.flops + rating)
