"""What each rank knows of the examples, in one checkpoint.

Ranks share when an epoch begins, and go on each by itself. One that is resumed within the epoch must not know what
another has learned since: where both meet an example (samplers repeat some, to make ranks even), that would count twice
and come with a newer loss than it had. Nearly all examples of an epoch come to one rank, so a checkpoint holds one
table, and the rows in which each rank's own differs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from litselect.callbacks.check_state import check_state
from litselect.callbacks.merge_ranks import highest, least_seen
from litselect.callbacks.process_group import rank, world_size
from litselect.callbacks.run_state import gather_ranks
from litselect.scoring import Ledger

Table = dict[str, Tensor]
"""Columns of one length, on the CPU."""


def padded(labels: Tensor | None, size: int) -> Tensor:
    """``[size]`` labels, -1 where none is known."""
    labels = torch.full((size,), -1, dtype=torch.int32) if labels is None else labels
    return torch.nn.functional.pad(labels, (0, size - len(labels)), value=-1)


def gather_tables(ledger: Ledger, labels: Tensor | None, device: torch.device | None) -> dict[str, Any]:
    """What every rank knows. A collective, unless `device` is None: then what this one does.

    Args:
        ledger: this rank's; others may be of another size.
        labels: the classes of its examples.
        device: where the ranks talk to each other.
    """
    size, whole = torch.tensor([ledger.size]), Ledger(1)
    whole.load_state_dict(ledger.state_dict())
    whole.grow(int(size if device is None else highest(size, device)))
    own = {**whole.state_dict(), "label": padded(labels, whole.size).to("cpu", copy=True)}
    if device is None:
        return {"common": own, "ranks": [_rows_apart(own, own)]}
    common = least_seen(own, device)
    return {"common": common, "ranks": gather_ranks(_rows_apart(own, common))}


def pick_tables(state: Any, *, together: bool) -> tuple[Ledger, Tensor]:
    """A ledger and its labels.

    Args:
        state: of `gather_tables`.
        together: what all ranks knew, as where another number of ranks gathered it; otherwise what this one did.

    Raises:
        ValueError: if `state` isn't what `gather_tables` made.
    """
    check_state("the ledger", state, {"common": {}, "ranks": []})
    common, ranks = cast("Table", state["common"]), cast("list[Table]", state["ranks"])
    ledger, labels = Ledger(1), common["label"]
    together = together or len(ranks) != world_size()
    for place, rows in enumerate(ranks if together else ranks[rank() : rank() + 1]):
        table = {name: values.index_put((rows["ids"].long(),), rows[name]) for name, values in common.items()}
        known, other = table.pop("label"), Ledger(1)
        other.load_state_dict(table)
        if place:
            ledger.merge([other])
        else:
            ledger = other
        labels = torch.maximum(labels, known) if place else known
    return ledger, labels


def _rows_apart(own: Table, common: Table) -> Table:
    differ = torch.zeros(len(own["seen"]), dtype=torch.bool)
    for name, values in own.items():
        others = common[name]
        differ |= (values != others) & ~((values != values) & (others != others))  # NaN is NaN here
    ids = differ.nonzero().squeeze(1)
    return {"ids": ids.int(), **{name: values[ids] for name, values in own.items()}}
