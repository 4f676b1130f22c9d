"""Budgets of a comparison: so many epochs' worth of plain training, in one of several units."""

import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.utilities.seed import isolate_rng

from experiments.calibration import Calibration, calibrate
from experiments.callbacks.meter import Meter
from experiments.data import ImageData
from experiments.errors import UsageError
from experiments.flops import Flops
from litselect.callbacks import Budget
from litselect.scoring import ScoringPass

UNITS = ("candidates", "trained", "flops", "reference")
"""Rows that the DataLoader yields; rows that are trained on, so that a method that trains half of them passes twice
over the data; operations; counted work at calibrated seconds."""


def make_budget(
    config: DictConfig, data: ImageData, meter: Meter, operations: Flops, calibration: Calibration | None
) -> Budget:
    """The budget of a run: that of `trainer.max_epochs` epochs of plain training on everything.

    Args:
        config: of the run.
        data: of the run. Held-out rows that are trained after all leave the amount as it was: with them there is more
            data, but not more training. So do rows that are left out for being corrupted.
        meter: which selection there is, and what was spent before training.
        operations: of one example.
        calibration: for the unit "reference".

    Raises:
        UsageError: for an unknown unit, or one that was spent before training began.
    """
    refuse_free_rows(config)
    rows, epochs, before = rows_of_epoch(config, data.nominal_rows), config.trainer.max_epochs, meter.before
    if config.unit == "candidates":
        return Budget(candidates=epochs * (rows - _held_out(meter.selection, rows)))
    rows -= len(data.heldout) if data.source.heldout_trained else 0
    if config.unit == "trained":
        return Budget(trained=epochs * rows)
    if config.unit == "flops":
        prices = {"train": [(1, operations.training)]}
        if not config.free:
            prices |= {"score": [(1, operations.score)], "proxy": [(1, operations.proxy)]}
        amount, spent = operations.training * epochs * rows, 0.0 if config.free else before.flops
        _require_left(amount, spent, "flops", epochs)
        return Budget(flops=amount, prices=prices, before=spent)
    if config.unit == "reference" and calibration is not None:
        amount = epochs * calibration.uniform(rows, data.source.batch_size)
        spent = 0.0 if config.free else calibration.rows(before.tally, data.source.batch_size)
        _require_left(amount, spent, "reference_seconds", epochs)
        return Budget(reference_seconds=amount, prices=calibration.prices(meter.selection, config.free), before=spent)
    raise UsageError(f"unit must be one of {', '.join(UNITS)}, received {config.unit}; set unit=candidates")


def refuse_free_rows(config: DictConfig) -> None:
    """Raise where scores would be free of charge in a unit that charges rows, and no scores."""
    if config.free and config.unit in ("candidates", "trained"):
        raise UsageError(
            f"free=true spares what scores and selection cost, which unit={config.unit} does not count, received "
            "both; set units=[reference] or units=[flops], or leave free=true out"
        )


def _require_left(amount: float, spent: float, key: str, epochs: int) -> None:
    if spent >= amount:
        raise UsageError(
            f"a budget must exceed what a run needs before it begins, received {amount:.3g} {key} for "
            f"trainer.max_epochs={epochs} and {spent:.3g} before; raise it, or share what is made before among runs "
            f"(selection.runs)"
        )


def longest(config: DictConfig) -> int:
    """The Trainer's own limit of epochs, beside a budget: none, unless that is of whole epochs of candidates.

    Batches of more candidates than plain training's may leave out more at the end of an epoch: it takes more of them.
    """
    data = config.data
    alike = data.candidates in (None, data.batch_size) and not data.only_clean
    return config.trainer.max_epochs if config.unit == "candidates" and alike else -1


def calibrated(
    config: DictConfig, data: ImageData, selections: list[Any], file: Path, code: str | None = None
) -> Calibration | None:
    """The calibration in `file`, completed for these selections and a plain scoring pass; None if no unit needs it.

    One of other images, other versions or other `code` (a digest; None if any will do) says nothing: all of it is
    measured anew, and what ran at its prices no longer counts as finished.
    """
    if config.unit != "reference":
        return None
    calibration = Calibration.read(file)
    if not calibration.holds_for(data, code):
        calibration = Calibration()
    scorings = [ScoringPass(), *(selection.scoring for selection in selections if hasattr(selection, "scoring"))]
    with isolate_rng():
        added = calibrate(calibration, config, data, scorings)
    if added:
        calibration.settings.setdefault("code", code)
        calibration.write(file)
    return calibration


def _held_out(selection: Any, rows: int) -> int:
    """Training rows that a rater takes out for itself, which no one sees as candidates."""
    live = getattr(selection, "live", None)
    fraction = None if live is None else live.heldout.fraction
    return 0 if fraction is None else round(fraction * rows)


def rows_of_epoch(config: DictConfig, rows: int) -> int:
    """Rows of an epoch of plain training over `rows`, which limits on batches and incomplete ones decide."""
    size, drop_last = config.data.batch_size, config.data.drop_last
    batches = rows // size if drop_last else math.ceil(rows / size)
    limit = config.trainer.get("limit_train_batches", 1.0)
    limited = math.floor(batches * limit) if isinstance(limit, float) else min(batches, limit)
    return limited * size if drop_last or limited < batches else rows
