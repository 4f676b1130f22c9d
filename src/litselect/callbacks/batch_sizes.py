"""How many rows a batch has, and must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] - the base of all of them

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def fewest_rows(module: nn.Module) -> int:
    """One, or two where one row alone would crash batch statistics, to which a plain batch gives no trouble."""
    return 2 if any(isinstance(child, _BatchNorm) for child in module.modules()) else 1


def declared_batch_size(trainer: Trainer) -> int:
    """The batch size of the training DataLoader, or 0 where none is declared."""
    loaders = cast("Any", trainer.fit_loop)._combined_loader.flattened
    sizes = [getattr(loader, "batch_size", None) for loader in loaders]
    sizes += [getattr(getattr(loader, "batch_sampler", None), "batch_size", None) for loader in loaders]
    return next((size for size in sizes if isinstance(size, int)), 0)
