"""Compare ways to select: `python -m experiments.compare data=digits selections=[uniform,selective_backprop] seeds=3`.

Trains every arm at every budget with every seed and writes `results.csv`, `report.md`, `report.html` and plots into
`runs/compare/<data>-<model>`. Finished cells are kept; Ctrl-C reports what is done.
"""

import logging
import shlex
from collections.abc import Iterable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from experiments import launch
from experiments.arms import plan, to_run
from experiments.budgets import calibrated
from experiments.build import build
from experiments.cell import OF_COMPARISON
from experiments.cli import command, require_complete
from experiments.data import ImageData
from experiments.errors import UsageError
from experiments.proxy import ProxyScored
from experiments.report import write_report
from experiments.request import Request
from experiments.runner import Runner
from experiments.tuned import read_tuned

PER_CELL = ("selection", "seed", "unit", "out", "evaluate_on")


def main(config: DictConfig) -> None:
    """Plans the cells, runs those that are not done, and reports what is done, whatever ends it."""
    require_complete(config)
    logging.getLogger("experiments").setLevel(logging.WARNING)  # the bars say what each epoch's line would
    hydra = HydraConfig.get()
    overrides, out = list(hydra.overrides.task), Path(hydra.runtime.output_dir)
    if config.reuse not in ("code", "config"):
        raise UsageError(f"reuse must be code or config, received {config.reuse}; set reuse=code")
    common, cells = _common(overrides), plan(config)
    settings = read_tuned(config.tuned, list(dict.fromkeys(cell.arm for cell in cells)))
    requests = {cell: to_run(cell).request([*common, *settings[cell.arm]], out / "cells") for cell in cells}
    for request in requests.values():
        build(request.config, "selection")  # a bad setting must not wait for its turn
    console = Console(highlight=False)
    _calibrate(requests.values(), console)
    runner = Runner(requests, config.reuse == "config", console)
    try:
        runner.run()
    finally:
        if outcomes := runner.outcomes():
            line = shlex.join(["python", "-m", "experiments.compare", *overrides])
            write_report(outcomes, planned=len(cells), folder=out, command=line, console=console)


def _calibrate(requests: Iterable[Request], console: Console) -> None:
    """Measures what budgets in reference time charge, before any run disturbs it."""
    groups: dict[Path, list[Request]] = {}
    for request in requests:
        if request.config.unit == "reference":
            groups.setdefault(request.calibration, []).append(request)
    for file, group in groups.items():
        console.print(f"Prices of reference time: {file}")
        parts = launch.read(build(group[0].config, "data"))
        for config in {request.config.data.candidates: request.config for request in group}.values():
            alike = [request.config for request in group if request.config.data.candidates == config.data.candidates]
            data = ImageData(build(config, "data"), config.seed, parts)
            selections = list(filter(None, (build(one, "selection") for one in alike)))
            for place, selection in enumerate(selections):
                if isinstance(selection, ProxyScored):
                    selections[place], _ = selection.ready(config, data, parts, file.parent)
            calibrated(config, data, selections, file)


def _common(overrides: list[str]) -> list[str]:
    """The overrides that go on to every cell.

    Raises:
        UsageError: one that the cells decide themselves.
    """
    keys = {override: override.lstrip("+~").partition("=")[0] for override in overrides}
    for override, key in keys.items():
        if key in PER_CELL:
            raise UsageError(
                f"compare sets {key} for each of its runs, received {override}; use selections=[...], seeds=... and "
                f"units=[...]"
            )
    return [override for override, key in keys.items() if key not in OF_COMPARISON]


if __name__ == "__main__":
    command("compare", main)
