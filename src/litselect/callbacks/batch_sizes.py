"""How many rows a batch has, and must have."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] - the base of all of them

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from litselect.selectors import Selector


def fewest_rows(module: nn.Module) -> int:
    """One, or two where one row alone would crash batch statistics, to which a plain batch gives no trouble."""
    return 2 if any(isinstance(child, _BatchNorm) for child in module.modules()) else 1


def declared_batch_size(trainer: Trainer) -> int:
    """The batch size of the training DataLoader, or 0 where none is declared."""
    loaders = cast("Any", trainer.fit_loop)._combined_loader.flattened
    sizes = [getattr(loader, "batch_size", None) for loader in loaders]
    sizes += [getattr(getattr(loader, "batch_sampler", None), "batch_size", None) for loader in loaders]
    return next((size for size in sizes if isinstance(size, int)), 0)


def warn_of_whole_batches(trainer: Trainer, selector: Selector, fewest: int) -> None:
    """Warn if batches are so small that all of each is trained.

    Args:
        trainer: whose batches they are; of several loaders' nothing is said.
        selector: what chooses.
        fewest: how many are trained at the least, whatever it chooses.
    """
    alone = len(cast("Any", trainer.fit_loop)._combined_loader.flattened) == 1
    n = declared_batch_size(trainer) if alone else 0
    least = fewest if selector.probabilistic else max(fewest, selector.count(n))
    if selector.keep < 1 and 0 < n <= least:
        why = "batch statistics need two" if fewest == 2 else "no step is made of none"
        remedy = "Enlarge the batches" + (", or collect rows with refill=True." if selector.probabilistic else ".")
        warnings.warn(
            f"{selector!r} leaves nothing out: at least {least} of the rows of a batch are trained ({why}), and a "
            f"batch has {n}. {remedy}",
            stacklevel=2,
        )
