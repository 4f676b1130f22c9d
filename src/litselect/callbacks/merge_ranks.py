"""One ledger out of those of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from litselect.scoring import Ledger

_Op = distributed.ReduceOp


def merge_ranks(ledger: Ledger, device: torch.device) -> None:
    """Let every rank know what any rank recorded, by the rule of `Ledger.merge`, in place.

    A collective: about a dozen reductions of the length of the ledger, one after the other, so that it needs room for
    one field beside the ledger.

    Args:
        ledger: this rank's.
        device: where the ranks talk to each other.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    rank, home = distributed.get_rank(), ledger.loss.device

    def reduce(values: Tensor, op: distributed.ReduceOp.RedOpType) -> Tensor:
        values = values.to(device, copy=True)
        distributed.all_reduce(values, op)
        return values.to(home)

    latest = reduce(ledger.step, _Op.MAX)
    holders = torch.where(ledger.step == latest, rank, distributed.get_world_size())
    first = reduce(holders, _Op.MIN) == rank
    for name in ("loss", "smoothed", "percentile", "first_learned", "confidence", "learned", "step"):
        values: Tensor = getattr(ledger, name)
        wide = values.float() if values.is_floating_point() else values.int()  # not every backend adds short types
        setattr(ledger, name, reduce(torch.where(first, wide, 0), _Op.SUM).to(values.dtype))
    for name in ("seen", "scored", "trained", "forgotten"):
        values = getattr(ledger, name)
        setattr(ledger, name, reduce(values.int(), _Op.MAX).to(values.dtype))
