"""What a meta-step costs in memory and time: `python -m experiments.meta_step_cost`.

Against the length of the window and against the size of the model, by each estimator, beside a plain training step.
Writes `cost.md`, `cost.csv` and a figure.
"""

import logging
from multiprocessing import get_context
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from experiments.cli import command, require_complete
from experiments.files import write_text
from experiments.look_aheads.cost_figure import draw
from experiments.look_aheads.cost_page import page
from experiments.look_aheads.costs import Case, Cost, measure, resident
from experiments.records import Row, write
from experiments.threads import threads


def main(config: DictConfig) -> None:
    """Measures, and writes page and figure."""
    require_complete(config)
    logging.getLogger("litselect").setLevel(logging.WARNING)
    console, out, image = Console(highlight=False, soft_wrap=True), Path(config.out), Path(config.images) / "cost.png"
    one, other, size = config.activations, config.parameters, config.by_size
    series = {
        "T, many activations": [Case(one.network, one.width, steps, one.rows) for steps in config.steps],
        "T, many parameters": [Case(other.network, other.width, steps, other.rows) for steps in config.steps],
        "parameters": [Case(size.network, width, size.steps, size.rows) for width in size.widths],
    }
    rows: list[Row] = []
    with threads(1, 0):
        for name, cases in series.items():
            for case in cases:
                found = measure(case, config.rounds)
                rows += [_row(name, cost) for cost in found]
                console.print(f"{case}: " + ", ".join(f"{c.estimator} {c.quartiles[1]:.1f}" for c in found))
    largest = series["parameters"][-1]
    rss: dict[str, int] = {}
    if config.check:
        with get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
            rss = {e or "plain step": fresh.apply(resident, (largest, e)) for e in (None, *largest.estimators())}
    write(out / "cost.csv", rows)
    draw(rows, image)
    line = " ".join(("python -m experiments.meta_step_cost", *HydraConfig.get().overrides.task))
    write_text(out / "cost.md", page(config, line, rows, rss, image))
    console.print(str(out / "cost.md"))


def _row(series: str, cost: Cost) -> Row:
    low, middle, high = (f"{value:.3f}" for value in cost.quartiles)
    return {
        "series": series, "network": cost.case.network, "steps": str(cost.case.steps), "rows": str(cost.case.rows),
        "parameters": str(cost.parameters), "estimator": cost.estimator, "memory": str(cost.memory),
        "plain_memory": str(cost.plain_memory), "time_25": low, "time_50": middle, "time_75": high,
    }  # fmt: skip


if __name__ == "__main__":
    command("meta_step_cost", main)
