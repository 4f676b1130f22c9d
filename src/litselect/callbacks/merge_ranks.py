"""One ledger out of those of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from litselect.callbacks.process_group import rank, world_size
from litselect.scoring.ledger import COUNTS, FIELDS, Ledger

_Op = distributed.ReduceOp


def highest(values: Tensor, device: torch.device) -> Tensor:
    """The highest of each value on any rank. A collective."""
    return _reduced(values, _Op.MAX, device) if world_size() > 1 else values


def merge_ranks(ledger: Ledger, device: torch.device) -> None:
    """Let every rank know what any rank recorded, by the rule of `Ledger.merge`, in place.

    A collective: about a dozen reductions of the length of the ledger, one after the other, so that it needs room for
    one field beside the ledger.

    Args:
        ledger: this rank's.
        device: where the ranks talk to each other.
    """
    if world_size() == 1:
        return
    first = _first_with(ledger.step, _Op.MAX, device)
    for name in FIELDS:  # in one order on every rank
        values: Tensor = getattr(ledger, name)
        if name in COUNTS:
            merged = _reduced(_wide(values), _Op.MAX, device).to(values.dtype)
        else:
            merged = _of_one(values, first, device)
        setattr(ledger, name, merged)


def least_seen(table: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The rows of those ranks that met an example least often: what all knew, if it came to some since. A collective.

    Args:
        table: this rank's columns, of which one is ``seen``.
        device: where the ranks talk to each other.
    """
    if world_size() == 1:
        return table
    first = _first_with(_wide(table["seen"]), _Op.MIN, device)
    return {name: _of_one(values, first, device) for name, values in table.items()}


def _first_with(values: Tensor, op: distributed.ReduceOp.RedOpType, device: torch.device) -> Tensor:
    """Where this is the first rank whose value is the highest, or the lowest, of all."""
    holders = torch.where(values == _reduced(values, op, device), rank(), world_size())
    return _reduced(holders, _Op.MIN, device) == rank()


def _of_one(values: Tensor, first: Tensor, device: torch.device) -> Tensor:
    """Each value of the rank that is `first` there."""
    return _reduced(torch.where(first, _wide(values), 0), _Op.SUM, device).to(values.dtype)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values.int()  # not every backend adds short types


def _reduced(values: Tensor, op: distributed.ReduceOp.RedOpType, device: torch.device) -> Tensor:
    """`values` of all ranks together, where those of this one are."""
    home, values = values.device, values.to(device, copy=True)
    distributed.all_reduce(values, op)
    return values.to(home)
