"""One ledger out of those of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from litselect.scoring.ledger import COUNTS, FIELDS, Ledger

_Op = distributed.ReduceOp


def highest(values: Tensor, device: torch.device) -> Tensor:
    """The highest of each value on any rank. A collective."""
    return _reduced(values, _Op.MAX, device) if _several() else values


def merge_ranks(ledger: Ledger, device: torch.device) -> None:
    """Let every rank know what any rank recorded, by the rule of `Ledger.merge`, in place.

    A collective: about a dozen reductions of the length of the ledger, one after the other, so that it needs room for
    one field beside the ledger.

    Args:
        ledger: this rank's.
        device: where the ranks talk to each other.
    """
    if not _several():
        return
    rank = distributed.get_rank()
    latest = _reduced(ledger.step, _Op.MAX, device)
    holders = torch.where(ledger.step == latest, rank, distributed.get_world_size())
    first = _reduced(holders, _Op.MIN, device) == rank
    for name in FIELDS:  # in one order on every rank
        values: Tensor = getattr(ledger, name)
        wide = values.float() if values.is_floating_point() else values.int()  # not every backend adds short types
        counts = name in COUNTS
        merged = _reduced(wide if counts else torch.where(first, wide, 0), _Op.MAX if counts else _Op.SUM, device)
        setattr(ledger, name, merged.to(values.dtype))


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _reduced(values: Tensor, op: distributed.ReduceOp.RedOpType, device: torch.device) -> Tensor:
    """`values` of all ranks together, where those of this one are."""
    home, values = values.device, values.to(device, copy=True)
    distributed.all_reduce(values, op)
    return values.to(home)
