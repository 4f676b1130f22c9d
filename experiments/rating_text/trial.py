"""One seed: a rater, and the trainings that use it or do without."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from experiments.look_aheads.operations import operations
from experiments.rating_text.corpus import Text
from experiments.rating_text.mixture import CLEAN, SOURCES, Mixture, mix
from experiments.rating_text.networks import LanguageModel, TextRater
from experiments.rating_text.training import Arm, Curve, follow, score, train
from litselect.scoring import RaterTrainer
from litselect.scoring.meta_gradients import Adam, InnerState, LookAhead, LossObjective, Window

Note = Callable[[str], object]


@dataclass(frozen=True)
class Trial:
    """What one seed found.

    Attributes:
        seed: which.
        percentiles: ``[M]``, of the ratings, in [0, 1].
        curves: of all arms.
        step: operations of one training step.
        mixture: the data.
    """

    seed: int
    percentiles: Tensor
    curves: list[tuple[Arm, Curve]]
    step: int
    mixture: Mixture


def run(config: DictConfig, texts: tuple[Text, ...], seed: int, note: Note) -> Trial:
    """Trains a rater, rates all rows, and trains a fresh language model by each rule."""
    mixture = mix(texts, **config.data, seed=seed)
    rows = mixture.train

    def fresh() -> LanguageModel:
        return LanguageModel(config.data.length, **config.model)

    torch.manual_seed(seed)
    step = operations(lambda: fresh()(rows[: config.batch_size]).mean().backward())
    rater = _rater(config, mixture, fresh, seed, note)
    ratings = score(rater, rows)
    ranks = ratings.argsort().argsort() / (len(rows) - 1)
    means = {name: ranks[mixture.source == n].mean() for n, name in enumerate(SOURCES)}
    note(f"seed {seed}: " + ", ".join(f"{name} {value:.2f}" for name, value in means.items()))
    everyone, nobody = torch.arange(len(rows)), torch.arange(len(rows), len(rows) + len(mixture.heldout))
    arms = [
        Arm("uniform", everyone),
        Arm("oracle: clean rows", everyone[mixture.source == CLEAN]),
        Arm("held-out rows alone", nobody),
    ]
    meta, rating = _meta_operations(config, mixture, fresh, rater)
    guesses = -_heldout_losses(config, mixture, fresh)
    guess = operations(lambda: fresh()(rows[: config.batch_size])) / config.batch_size
    for discard in config.discards:
        seen = min(len(rows), config.steps * round(config.batch_size / (1 - discard)))
        learned, guessed = meta + seen * rating, config.guess_steps * step + seen * guess
        arms.append(Arm("rater, highest", everyone, ratings, discard, hard=True, preparation=learned))
        arms.append(Arm("rater, drawn", everyone, ratings, discard, hard=False, preparation=learned))
        arms.append(Arm("lowest loss of a held-out model", everyone, guesses, discard, preparation=guessed))
    longest = config.steps + int(max(arm.preparation for arm in arms) / step) + 1
    curves: list[tuple[Arm, Curve]] = []
    both, judges = torch.cat([rows, mixture.heldout]), mixture.validation
    for arm in arms:
        torch.manual_seed(seed)
        steps = longest if arm.name == "uniform" else config.steps
        curve = follow(
            fresh(), both, arm.batches(config.batch_size, seed), judges, steps, config.every, config.lr, config.average
        )
        curves.append((arm, curve))
        note(f"seed {seed}: {arm.name}, discard {arm.discard:g}: {curve.at(config.steps):.4f}")
    return Trial(seed, ranks, curves, step, mixture)


def _rater(
    config: DictConfig, mixture: Mixture, fresh: Callable[[], LanguageModel], seed: int, note: Note
) -> TextRater:
    rater = TextRater(config.rater_width)
    loaders = [
        DataLoader(TensorDataset(part), batch_size=config.batch_size, shuffle=True, drop_last=True)
        for part in (mixture.train, mixture.heldout)
    ]
    trainer = RaterTrainer(
        rater,
        fresh,
        lambda module, batch: module(batch[0]),
        *loaders,
        inner_optimizer=Adam(lr=config.lr),
        seed=seed,
        progress=False,
        **config.meta,
    )
    trainer.fit()
    last = trainer.history[-1]
    note(f"seed {seed}: rater trained, " + ", ".join(f"{name} {value:.3g}" for name, value in last.items()))
    return rater


def _meta_operations(
    config: DictConfig, mixture: Mixture, fresh: Callable[[], LanguageModel], rater: TextRater
) -> tuple[float, float]:
    """Of the whole meta-training, and of rating one row."""
    objective, optimizer = LossObjective(fresh(), lambda module, batch: module(batch[0])), Adam(lr=config.lr)
    parameters, buffers = objective.begin(fresh())
    start = InnerState(parameters, buffers, optimizer.begin(parameters))
    size = config.batch_size
    *inner, heldout = ((part,) for part in mixture.train[: size * (config.meta.inner_steps + 1)].split(size))
    rater.requires_grad_()
    window = Window(start, inner, heldout, lambda batch, _: rater(batch[0]))
    ahead = LookAhead(objective, optimizer)
    ahead(window)  # the first one also looks whether the estimator can be trusted
    one = operations(lambda: ahead(window).backward())
    rating = operations(lambda: rater(mixture.train[:size])) / size
    rater.requires_grad_(False)
    return float(one * config.meta.population * config.meta.meta_steps), rating


def _heldout_losses(config: DictConfig, mixture: Mixture, fresh: Callable[[], LanguageModel]) -> Tensor:
    """The loss of every row under a model that saw the held-out rows alone."""
    model, arm = fresh(), Arm("held-out", torch.arange(len(mixture.heldout)))
    batches = arm.batches(config.batch_size, 0)
    for _ in train(model, mixture.heldout, batches, config.guess_steps, config.lr):
        pass
    return score(model, mixture.train)
