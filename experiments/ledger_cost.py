"""What a ledger costs, by its size: `python -m experiments.ledger_cost`.

On one thread; `python -m experiments.speed` measures the same among other things.
"""

import torch

from experiments import environment
from experiments.report.document import Table
from experiments.report.markdown import to_table
from experiments.step_costs.ledger_sizes import BATCH, measure

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
ROUNDS = 5


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    rows = [
        (
            f"{int(row['examples']):,}", f"{int(row['bytes']) / 1e6:.1f}", f"{float(row['update_us']):,.0f}",
            f"{float(row['look_up_us']):,.0f}", f"{float(row['ranks_s']):.4f}",
        )
        for row in measure(SIZES, ROUNDS)
    ]  # fmt: skip
    head = ("examples", "MB", f"update of {BATCH}, us", f"look up {BATCH}, us", "ranks of an epoch, s")
    print(to_table(Table(head, rows)))
    facts = environment.describe()
    print(", ".join(f"{name} {facts[name]}" for name in ("hardware", "torch", "commit")), f"median of {ROUNDS} rounds")


if __name__ == "__main__":
    main()
