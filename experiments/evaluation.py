"""Which images the result of a run is measured on."""

from omegaconf import DictConfig

from experiments.data import ImageData
from experiments.errors import UsageError


def evaluated_part(config: DictConfig, data: ImageData) -> str:
    """What `evaluate_on` says: "test", or "val", the validation split, with which settings are chosen.

    Raises:
        UsageError: anything else, or a validation split where there is none.
    """
    part = config.evaluate_on
    if part not in ("test", "val"):
        raise UsageError(f"evaluate_on must be test or val, received {part}; set evaluate_on=test")
    if part == "val" and data.curve is data.test:
        raise UsageError(
            "evaluate_on=val needs a validation split, or the test images would choose; received "
            "data.val_fraction=0.0; set data.val_fraction=0.1"
        )
    return part
