"""What a ledger costs, by its size: `python -m experiments.ledger_cost`.

Updates of a batch and the ranks of an epoch, on one thread; sizes take turns, so that all meet the same disturbances.
"""

import statistics
from collections.abc import Callable
from time import perf_counter

import torch

from experiments import environment
from experiments.report.document import Table
from experiments.report.markdown import to_table
from litselect.scoring import Ledger
from litselect.scoring.known_scores import KnownScores
from litselect.scoring.loss_ranks import LossRanks

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
BATCH, ROUNDS, UPDATES = 128, 5, 200


def seconds(call: Callable[[], object], times: int) -> float:
    """Mean time of one call."""
    start = perf_counter()
    for _ in range(times):
        call()
    return (perf_counter() - start) / times


def filled(size: int) -> KnownScores:
    """A ledger that knows every example."""
    ledger = Ledger(size)
    ledger.record(torch.arange(size), torch.rand(size), torch.rand(size), 0)
    return KnownScores(ledger)


def update(known: KnownScores, ranks: LossRanks) -> None:
    """All that a trained batch asks for."""
    ids, losses = torch.randint(known.ledger.size, (BATCH,)), torch.rand(BATCH)
    known.ledger.see(ids)
    known.ledger.train(ids)
    ranks.append(losses, torch.ones(BATCH))
    known.ledger.record(ids, losses, ranks.percentile(losses), 1)
    known.ledger.predict(ids, losses, losses > 0.5, 1)


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ledgers, ranks = [filled(size) for size in SIZES], LossRanks()
    found: list[list[tuple[float, float, float]]] = [[] for _ in SIZES]
    for _ in range(ROUNDS):
        for known, rounds in zip(ledgers, found, strict=True):
            ids = torch.randint(known.ledger.size, (BATCH,))
            rounds.append(
                (
                    seconds(lambda known=known: update(known, ranks), UPDATES),
                    seconds(lambda known=known, ids=ids: known.of(ids), UPDATES),
                    seconds(lambda known=known: known.begin_epoch(1), 1),
                )
            )
    rows = []
    for size, known, rounds in zip(SIZES, ledgers, found, strict=True):
        held = sum(tensor.numel() * tensor.element_size() for tensor in known.ledger.state_dict().values())
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        rows.append((f"{size:,}", f"{held / 1e6:.1f}", *(f"{1e6 * t:,.0f}" for t in medians[:2]), f"{medians[2]:.4f}"))
    head = ("examples", "MB", f"update of {BATCH}, us", f"look up {BATCH}, us", "ranks of an epoch, s")
    print(to_table(Table(head, rows)))
    facts = environment.describe()
    print(", ".join(f"{name} {facts[name]}" for name in ("hardware", "torch", "commit")), f"median of {ROUNDS} rounds")


if __name__ == "__main__":
    main()
