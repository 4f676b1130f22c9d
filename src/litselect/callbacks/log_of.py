"""Where a Trainer's messages go."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def log_of(trainer: Trainer) -> logging.Logger:
    """The log of the package whose Trainer this is, or is derived from, of the two that have one: it is set up."""
    homes = (kind.__module__.partition(".trainer")[0] for kind in type(trainer).__mro__)
    known = (home for home in homes if home in ("pytorch_lightning", "lightning.pytorch"))
    return logging.getLogger(next(known, "pytorch_lightning"))
