"""What a ledger costs, by its size: updates of a batch, look-ups, and the ranks of an epoch."""

import statistics
from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from experiments.records import Row
from litselect.scoring import Ledger
from litselect.scoring.known_scores import KnownScores

BATCH, UPDATES = 128, 200


def measure(sizes: Sequence[int], rounds: int) -> list[Row]:
    """A row for each size: medians of wall-clock time. Sizes take turns, so that all meet the same disturbances."""
    torch.manual_seed(0)
    ledgers = [_filled(size) for size in sizes]
    found: list[list[tuple[float, float, float]]] = [[] for _ in sizes]
    for _ in range(rounds):
        for known, own in zip(ledgers, found, strict=True):
            ids = torch.randint(known.ledger.size, (BATCH,))
            own.append(
                (
                    _seconds(lambda known=known: _update(known), UPDATES),
                    _seconds(lambda known=known, ids=ids: known.of(ids), UPDATES),
                    _seconds(lambda known=known: known.begin_epoch(1), 1),
                )
            )
    rows: list[Row] = []
    for size, known, own in zip(sizes, ledgers, found, strict=True):
        held = sum(tensor.numel() * tensor.element_size() for tensor in known.ledger.state_dict().values())
        update, look_up, ranking = (statistics.median(column) for column in zip(*own, strict=True))
        rows.append(
            {
                "examples": str(size), "bytes": str(held), "update_us": f"{1e6 * update:.1f}",
                "look_up_us": f"{1e6 * look_up:.1f}", "ranks_s": f"{ranking:.6f}",
            }
        )  # fmt: skip
    return rows


def _seconds(call: Callable[[], object], times: int) -> float:
    """Mean time of one call."""
    start = perf_counter()
    for _ in range(times):
        call()
    return (perf_counter() - start) / times


def _filled(size: int) -> KnownScores:
    """A ledger that knows every example."""
    ledger = Ledger(size)
    ledger.record(torch.arange(size), torch.rand(size), torch.rand(size), 0)
    known = KnownScores(ledger)
    known.begin_epoch(0)
    return known


def _update(known: KnownScores) -> None:
    """All that a trained batch asks for."""
    ids, losses = torch.randint(known.ledger.size, (BATCH,)), torch.rand(BATCH)
    known.ledger.see(ids)
    known.ledger.train(ids)
    known.ledger.record(ids, losses, known.rank(losses), 1)
    known.ledger.predict(ids, losses, losses > 0.5, 1)
