"""What a run's `summary.json` says beside its result."""

import shlex
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning import LightningModule

from experiments import environment, flops
from experiments.calibration import Calibration
from experiments.callbacks import Cost, Meter, Tally
from experiments.data import ImageData
from experiments.request import Request
from litselect.callbacks import Budget


def costs(meter: Meter, operations: flops.Flops) -> dict[str, Any]:
    """What training took, and what it needed before (a table, a rater); the latter also by itself.

    The seconds of its parts are there only where a selection callback measured them.

    Args:
        meter: what was counted.
        operations: of one example.
    """
    tally, before = meter.total, meter.before
    counters: Any = getattr(meter.selection, "counters", None)
    parts = ("scoring_seconds", "selection_seconds", "training_seconds") if counters else ()
    return {
        "seconds": meter.seconds,
        "cpu_seconds": meter.cpu_seconds,
        "candidates_seen": tally.seen,
        "examples_scored": tally.scored,
        "examples_trained": tally.trained,
        "optimizer_steps": tally.steps,
        "flops": meter.flops,
        "flops_forward": operations.forward,
        "flops_training": operations.training,
        **{part: getattr(counters, part) for part in parts},
        **(_look_aheads(meter.looking_ahead) if meter.looking_ahead.steps else {}),
        **(_table_costs(before) if before.tally.trained else {}),
    }


def _look_aheads(tally: Tally) -> dict[str, Any]:
    """What a rater that learns beside the training cost; in FLOPs, its own network is left out."""
    return {
        "look_aheads": tally.steps,
        "look_ahead_examples_scored": tally.scored,
        "look_ahead_examples_trained": tally.trained,
    }


def _table_costs(cost: Cost) -> dict[str, Any]:
    """The part of the costs that went into a table of irreducible losses, or into a rater."""
    return {
        "table_seconds": cost.seconds,
        "table_examples_scored": cost.tally.scored,
        "table_examples_trained": cost.tally.trained,
        "table_flops": cost.flops,
    }


def spent(budget: Budget, config: DictConfig, calibration: Calibration | None) -> dict[str, Any]:
    """What a budget in reference time came to, by kind of work; nothing for other units."""
    if calibration is None:
        return {}
    return {
        "reference_seconds": budget.spent,
        "reference_breakdown": budget.breakdown,
        "calibration": calibration.identity,
        "reference_epoch_seconds": budget.amount / config.trainer.max_epochs,
        "free": config.free,
    }


def circumstances(request: Request, data: ImageData, module: LightningModule) -> dict[str, Any]:
    """What one needs to know beside the result, and to repeat it.

    Args:
        request: what was run.
        data: as it was trained on.
        module: what was trained.
    """
    config = request.config
    return {
        "budget": {"unit": config.unit, "epochs": config.trainer.max_epochs},
        "keep": config.keep,
        "schedule": request.choices["schedule"],
        "optimizer": request.choices["optimizer"],
        "heldout_examples": len(data.heldout),
        "label_noise": data.source.label_noise,
        "pixel_noise": data.source.pixel_noise,
        "duplicates": data.source.duplicates,
        "train_examples": len(data.train),
        "test_examples": len(data.test),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "learning_curve": request.curve.name,
        "learning_curve_on": "test set" if data.curve is data.test else "validation split",
        "command": shlex.join(["python", "-m", "experiments.train", *request.overrides]),
        "environment": environment.describe(),
    }
