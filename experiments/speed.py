"""What a selected step costs: `python -m experiments.speed`.

Measures selected training beside plain training, network by network, with every way to get scores. Writes
`results.csv`, a page and its figure. A run that was interrupted goes on where it was.
"""

import logging
from datetime import date
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from experiments import environment
from experiments.allocator import keep_memory
from experiments.cell import code_digest
from experiments.cli import command, require_complete
from experiments.errors import UsageError
from experiments.records import write
from experiments.step_costs.options import OPTIONS
from experiments.step_costs.page import Findings, write_page
from experiments.step_costs.store import Store
from experiments.step_costs.study import Study
from experiments.threads import threads

CLOCKS = {
    "cpu": "Seconds are processor time of the thread that trains (torch's threads: {threads}), which other work on the "
    "machine disturbs least. Freed memory is {memory}.",
    "cuda": "Seconds are wall clock, the device synchronised at both ends.",
}


def main(config: DictConfig) -> None:
    """Measures, and writes everything down."""
    require_complete(config)
    _check(config)
    logging.getLogger("litselect").setLevel(logging.WARNING)
    memory = "kept" if keep_memory() else "given back as the C library sees fit"
    hydra, console = HydraConfig.get(), Console(highlight=False, soft_wrap=True)
    folder, page = Path(hydra.runtime.output_dir), Path(config.page)
    code = code_digest() if config.reuse == "code" else None
    common = {"code": code, "device": config.device, "threads": config.threads}
    study = Study(config, Store(folder / "parts", common, console.print))
    with threads(config.threads, 0), torch.random.fork_rng():
        results = study.results()
        write(folder / "results.csv", results)
        rows = {"results": results, **dict(study.others())}
        facts = {
            **environment.describe(), "date": date.today().isoformat(),
            "command": " ".join(("python -m experiments.speed", *hydra.overrides.task)),
            "clock": CLOCKS[config.device].format(threads=config.threads, memory=memory),
            "fidelity": config.fidelity.words,
        }  # fmt: skip
        if config.trace:
            for file in study.traces(folder / "traces"):
                console.print(str(file))
    Findings(facts, rows).write(page.with_suffix("") / config.device)
    write_page(page)
    console.print(str(page))


def _check(config: DictConfig) -> None:
    """Refuses what can't be measured."""
    if config.device not in CLOCKS:
        raise UsageError(f"device must be cpu or cuda, received {config.device}; set device=cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda needs a CUDA device, received none; set device=cpu")
    if config.reuse not in ("code", "config"):
        raise UsageError(f"reuse must be code or config, received {config.reuse}; set reuse=code")
    for key, known in (("options", OPTIONS), ("models", config.sizes[config.device])):
        if unknown := [name for name in config[key] if name not in known]:
            raise UsageError(f"{key} must be of {', '.join(known)}, received {', '.join(unknown)}; set {key}=[...]")


if __name__ == "__main__":
    command("speed", main)
