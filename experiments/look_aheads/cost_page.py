"""The page about costs."""

import os
from pathlib import Path

from omegaconf import DictConfig

from experiments import environment
from experiments.look_aheads.cost_figure import SIZES
from experiments.records import Row
from experiments.report.document import Table
from experiments.report.markdown import to_table

CHECK = (
    "Cross-check: by how much the peak of the resident memory rises in fresh processes with the largest model (and "
    "what was counted)"
)
FACTS = ("hardware", "python", "torch", "litselect")


def page(config: DictConfig, line: str, rows: list[Row], rss: dict[str, int], image: Path) -> str:
    """Figure and tables, from the rows of the CSV file."""
    known = environment.describe()
    series = {name: [row for row in rows if row["series"] == name] for name in dict.fromkeys(r["series"] for r in rows)}
    *_, sizes = series.values()
    last = [row for row in sizes if row["parameters"] == sizes[-1]["parameters"]]
    counted = {"plain step": sizes[-1]["plain_memory"]} | {row["estimator"]: row["memory"] for row in last}
    check = ", ".join(f"{name} {size / 2**20:.0f} MiB ({int(counted[name]) / 2**20:.0f})" for name, size in rss.items())
    tables = [
        (f"## Against {name}: {own[0]['network']}, batches of {own[0]['rows']}", to_table(_table(own, name == SIZES)))
        for name, own in series.items()
    ]
    paragraphs = (
        "# What a meta-step costs",
        f"Made by `{line}`, not by hand; all values in [cost.csv](cost.csv).",
        f"![Memory and time of a meta-step]({os.path.relpath(image, Path(config.out))})",
        "*Memory*: all tensors alive at the peak, beyond model and data, each storage counted from birth to end. "
        f"*Time*: of the processor, one thread, median and quartiles of {config.rounds} rounds, in each of which a "
        "plain step (torch.optim.Adam) and every estimator take turns. Both are multiples of the plain step. The rater "
        "costs nothing here, and the inner optimizer is Adam.",
        "The adjoint keeps the states of the model at all steps and, at its peak, the derivative of one update: "
        "several times the parameters. So it saves memory where activations prevail, and the more the longer the "
        "window. Where parameters prevail (small batches), unrolling a short window takes less. From T = 2 on, "
        "unrolling is faster than the adjoint.",
        *(part for table in tables for part in table),
        *([f"{CHECK}: {check}."] if check else []),
        ", ".join(f"{name} {known[name]}" for name in FACTS) + ".",
    )
    return "\n\n".join(paragraphs) + "\n"


def _table(rows: list[Row], by_size: bool) -> Table:
    """Memory and time by estimator."""
    key = "parameters" if by_size else "steps"
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    found = {(row[key], row["estimator"]): row for row in rows}
    lines: list[tuple[str, ...]] = []
    for x in dict.fromkeys(row[key] for row in rows):
        own = [found.get((x, estimator)) for estimator in estimators]
        plain = next(int(row["plain_memory"]) for row in own if row)
        memory = ["" if row is None else f"{int(row['memory']) / plain:.1f}" for row in own]
        time = ["" if row is None else f"{float(row['time_50']):.1f} ({_range(row)})" for row in own]
        lines.append((f"{int(x):,}", f"{plain / 2**20:.2f} MiB", *memory, *time))
    names = (*(f"memory: {name}" for name in estimators), *(f"time: {name}" for name in estimators))
    return Table(("parameters" if by_size else "T", "plain step", *names), lines)


def _range(row: Row) -> str:
    return f"{float(row['time_25']):.1f} to {float(row['time_75']):.1f}"
