"""How a rater is trained."""

from dataclasses import dataclass

from experiments.errors import UsageError
from litselect.scoring.meta_gradients import InnerOptimizer


@dataclass(frozen=True, kw_only=True)
class MetaTraining:
    """The settings of `litselect.scoring.RaterTrainer`, whose values come from `conf/meta`.

    Attributes:
        inner_steps: T, training steps that a meta-gradient looks ahead.
        population: how many inner models.
        lifetime: meta-steps after which an inner model starts anew.
        meta_steps: how many.
        meta_lr: learning rate of the rater.
        warmup: meta-steps over which it rises.
        batch_size: of inner steps and of held-out batches.
        heldout: fraction of the training rows that judge the others, corrupted as these are, where
            `data.heldout_fraction` has set none aside.
        inner_optimizer: of the inner models.
        log_every: meta-steps between two rows of the curve.
    """

    inner_steps: int
    population: int
    lifetime: int
    meta_steps: int
    meta_lr: float
    warmup: int
    batch_size: int
    heldout: float
    inner_optimizer: InnerOptimizer
    log_every: int

    def __post_init__(self) -> None:
        counts = ("inner_steps", "population", "lifetime", "meta_steps", "batch_size", "log_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise UsageError(f"meta.{name} must be at least 1, received {getattr(self, name)}; raise it")
        if not 0 < self.heldout < 1:
            raise UsageError(f"meta.heldout must be between 0 and 1, received {self.heldout}; set meta.heldout=0.1")
