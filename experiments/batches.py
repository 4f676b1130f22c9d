"""Whether there is anything to train on."""

import math

from omegaconf import DictConfig

from experiments.data import ImageData
from experiments.errors import UsageError


def require_batches(data: ImageData, trainer: DictConfig) -> None:
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
            f"batches of {source.rows_at_once} and {len(data.train)} training examples; set data.drop_last=false "
            f"or a smaller data.batch_size"
        )
    limited = math.floor(batches * limit) if isinstance(limit, float) else min(batches, limit)
    if limited < 1:
        raise UsageError(
            f"an epoch needs at least 1 batch, received trainer.limit_train_batches={limit} of {batches} batches; "
            f"set it to 1.0 for all of them"
        )
