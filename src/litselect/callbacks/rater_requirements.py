"""What a live rater asks of its settings, the Trainer and the module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer
    from torch import nn

    from litselect.callbacks.example_selection import ExampleSelection


def check_rater(callback: ExampleSelection, trainer: Trainer, module: LightningModule) -> None:
    """Refuse modules whose next step can't be looked at ahead.

    Raises:
        ValueError: with the invariant, what was received and the remedy.
    """
    name, strategy = type(callback).__name__, type(trainer.strategy).__name__
    if not module.automatic_optimization:
        raise ValueError(
            f"{name} looks one optimizer step ahead, but {type(module).__name__} optimizes manually, so that no one "
            "knows what its step is. Use automatic optimization, or train a rater beforehand with RaterTrainer."
        )
    if any(part in strategy for part in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise ValueError(
            f"{name} runs the module on parameters of its own, which needs whole ones, but {strategy} shards them. "
            "Train a rater beforehand with RaterTrainer, on a smaller model."
        )


def require_settings(rater: nn.Module, positive: dict[str, float], others: dict[str, Any]) -> None:
    """Refuse settings of a live rater that can't work.

    Raises:
        ValueError: with the invariant, what was received and the remedy.
    """
    if wrong := {name: value for name, value in positive.items() if not value > 0}:
        raise ValueError(f"Expected numbers > 0, but got {wrong}. Leave them out for the defaults.")
    if not any(p.requires_grad for p in rater.parameters()):
        raise ValueError(
            f"A rater must have parameters to train, but {type(rater).__name__} has none that require gradients. "
            "Unfreeze some, or use a frozen rater with ExampleSelection(RatedSubset(...), ratings=...)."
        )
    if others.get("nonfinite", "raise") != "raise":
        raise ValueError(
            "A look-ahead trains on all candidates, so a loss that is NaN or inf ruins it, but "
            f"nonfinite={others['nonfinite']!r} was received. Leave it out, and take such examples out of the data."
        )
