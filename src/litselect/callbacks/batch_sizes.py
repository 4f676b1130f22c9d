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


def least_chosen(module: nn.Module, refill: bool) -> int:
    """How many rows of a batch are to be chosen at the least; a queue takes what comes, for its batches are full."""
    return 0 if refill else fewest_rows(module)


def declared_batch_size(trainer: Trainer) -> int:
    """The batch size of the training DataLoader, or 0 where none is declared."""
    loaders = cast("Any", trainer.fit_loop)._combined_loader.flattened
    sizes = [getattr(loader, "batch_size", None) for loader in loaders]
    sizes += [getattr(getattr(loader, "batch_sampler", None), "batch_size", None) for loader in loaders]
    return next((size for size in sizes if isinstance(size, int)), 0)


def warn_of_whole_batches(selector: Selector, n: int, fewest: int) -> None:
    """Warn if a batch is so small that all of it is trained.

    Args:
        selector: what chooses.
        n: rows of the batch.
        fewest: how many are trained at the least, whatever it chooses.
    """
    count = 0 if selector.probabilistic else selector.count(n)
    if selector.keep >= 1 or selector.follows_progress or n > max(count, fewest):
        return
    why = f"keep={selector.keep:.3g} of {n} rows is rounded to {count}" if count >= n else "batch statistics need two"
    why = "no step is made of none" if n == 1 else why
    remedy = "Enlarge the batches" + (", or collect rows with refill=True." if selector.probabilistic else ".")
    warnings.warn(
        f"{selector!r} leaves nothing out of a batch of {n} row{'s' * (n > 1)}: {why}. {remedy}", stacklevel=2
    )
