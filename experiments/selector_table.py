"""The table of selectors in the documentation: `python -m experiments.selector_table`.

Trains a small network with every option of the config group `selection`, each beside a plain training so that both meet
the same disturbances, and writes what selectors say about themselves and what they cost into `docs/selectors/table.md`.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from experiments import environment
from experiments.arms import BASELINE, every_arm
from experiments.build import build
from experiments.cli import command, require_complete
from experiments.data import ImageData, Images, Source
from experiments.files import write_text
from experiments.irreducible import make_table, table_of
from experiments.proxy import ProxyScored
from experiments.rating import Online, Rated
from experiments.report.document import Table
from experiments.report.markdown import to_table
from experiments.selector_facts import Facts
from experiments.selector_timing import enlarged, measure

HEADERS = ("selection=", "selector", "needs", "state", "extra forward passes", "time", "paper")
FACTS = ("hardware", "python", "torch", "pytorch-lightning", "litselect")


def main(config: DictConfig) -> None:
    """Measures, and writes the table."""
    require_complete(config)
    hydra, console = HydraConfig.get(), Console(highlight=False, soft_wrap=True)
    source: Source = build(config, "data")
    parts = enlarged(source.read(), config.rows)
    rows = []
    for arm in every_arm():
        if arm != BASELINE:
            rows.append(_row(compose("selector_table", [*hydra.overrides.task, f"selection={arm}"]), arm, parts))
            console.print("  ".join((rows[-1][0], *rows[-1][4:6])))
    write_text(Path(config.file), _page(config, dict(hydra.runtime.choices)["model"], parts[0].pixels.shape[-1], rows))
    console.print(config.file)


def _row(config: DictConfig, arm: str, parts: tuple[Images, Images]) -> tuple[str, ...]:
    """Measures one option, `rounds` times beside plain training."""
    ratios: list[float] = []
    passes: list[float] = []
    for _ in range(config.rounds):
        plain = measure(config, parts, None)
        with TemporaryDirectory() as folder:
            found = measure(config, parts, _ready(config, parts, Path(folder)))
        ratios.append(found.seconds / plain.seconds)
        passes.append(found.scored)
    with TemporaryDirectory() as folder:
        facts = Facts.of(_ready(config, parts, Path(folder)))
    time = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return (f"`{arm}`", facts.selector, facts.needs, facts.state, f"{statistics.median(passes):.2g}", time, facts.paper)


def _ready(config: DictConfig, parts: tuple[Images, Images], folder: Path) -> Any:
    """The callback, with all that it needs made before. Any ratings will do: their values take no time."""
    selection = build(config, "selection")
    if isinstance(selection, Rated):
        selection = replace(selection, source="truth")
    if isinstance(selection, Rated | Online | ProxyScored):
        data = ImageData(build(config, "data"), config.seed, parts)
        return selection.ready(config, data, parts, folder)[0]
    table = table_of(selection)
    if table is not None:
        table.path = str(folder / "irreducible.safetensors")
        make_table(config, Path(table.path), parts)
    return selection


def _page(config: DictConfig, model: str, size: int, rows: list[tuple[str, ...]]) -> str:
    """The table, and how it came about."""
    known = environment.describe()
    paragraphs = (
        "# All selections in a table",
        "Made by `python -m experiments.selector_table`, not by hand.",
        to_table(Table(HEADERS, rows)),
        "*Extra forward passes*: rows that are scored for each incoming row. *Time*: that of an incoming batch as a "
        f"multiple of plain training, median (and range) of {config.rounds} rounds, each of which trains plainly and "
        "with the selection, one after the other. It holds for this network: in a larger one scoring and training "
        "count for more, and choosing for less.",
        f"keep={config.keep:g}, {model}, {config.rows} images of {size} x {size} pixels (digits, enlarged) in batches "
        f"of {config.data.batch_size}; processor seconds of epochs 2 to {config.trainer.max_epochs - 1} of "
        f"{config.trainer.max_epochs} on one thread. " + ", ".join(f"{name} {known[name]}" for name in FACTS) + ".",
    )
    return "\n\n".join(paragraphs) + "\n"


if __name__ == "__main__":
    command("selector_table", main)
