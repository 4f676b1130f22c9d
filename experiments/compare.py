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
from experiments.budgets import calibrated, refuse_free_rows
from experiments.build import build
from experiments.cell import OF_COMPARISON, code_digest
from experiments.cli import command, require_complete
from experiments.data import ImageData
from experiments.errors import UsageError
from experiments.overrides import handed_on
from experiments.proxy import ProxyScored
from experiments.report import write_report
from experiments.request import Request
from experiments.runner import Runner
from experiments.tuned import read_tuned

PER_CELL = ("selection", "seed", "unit", "out", "evaluate_on")
RULE = "compare sets {} for each of its runs"
INSTEAD = "selections=[...], seeds=... and units=[...]"


def main(config: DictConfig) -> None:
    """Plans the cells, runs those that are not done, and reports what is done, whatever ends it."""
    require_complete(config)
    logging.getLogger("experiments").setLevel(logging.WARNING)  # the bars say what each epoch's line would
    hydra = HydraConfig.get()
    overrides, out = list(hydra.overrides.task), Path(hydra.runtime.output_dir)
    if config.reuse not in ("code", "config"):
        raise UsageError(f"reuse must be code or config, received {config.reuse}; set reuse=code")
    common, cells = handed_on(overrides, OF_COMPARISON, PER_CELL, RULE, INSTEAD), plan(config)
    settings = read_tuned(config.tuned, list(dict.fromkeys(cell.arm for cell in cells)))
    requests = {cell: to_run(cell).request([*common, *settings[cell.arm]], out / "cells") for cell in cells}
    for request in requests.values():
        build(request.config, "selection")  # a bad setting must not wait for its turn
        refuse_free_rows(request.config)
    console = Console(highlight=False)
    _calibrate(requests.values(), None if config.reuse == "config" else code_digest(), console)
    runner = Runner(requests, config.reuse == "config", console)
    try:
        runner.run()
    finally:
        if outcomes := runner.outcomes():
            line = shlex.join(["python", "-m", "experiments.compare", *overrides])
            write_report(outcomes, planned=len(cells), folder=out, command=line, console=console)


def _calibrate(requests: Iterable[Request], code: str | None, console: Console) -> None:
    """Measures what budgets in reference time charge, before any run disturbs it."""
    groups: dict[tuple[Path, int | None], list[DictConfig]] = {}
    for request in requests:
        config = request.config
        if config.unit == "reference":
            groups.setdefault((request.calibration, config.data.candidates), []).append(config)
    for file in dict.fromkeys(file for file, _ in groups):
        console.print(f"Prices of reference time: {file}")
    for (file, _), configs in groups.items():
        source = build(configs[0], "data")
        parts = launch.read(source)
        data = ImageData(source, configs[0].seed, parts)
        selections = list(filter(None, (build(config, "selection") for config in configs)))
        for place, selection in enumerate(selections):
            if isinstance(selection, ProxyScored):
                selections[place], _ = selection.ready(configs[0], data, parts, file.parent)
        calibrated(configs[0], data, selections, file, code)


if __name__ == "__main__":
    command("compare", main)
