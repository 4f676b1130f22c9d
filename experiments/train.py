"""Train once: `python -m experiments.train data=digits selection=selective_backprop seed=0`.

With `-m`, Hydra sweeps: `python -m experiments.train -m selection=uniform,selective_backprop seed=0,1,2`.
Every run writes `summary.json` and `curve.csv` into its Hydra run directory; one whose selection keeps a ledger writes
`ledger.csv` and `contact_sheets/*.png` too.
"""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console

from experiments.cli import command, require_complete
from experiments.request import Request
from experiments.run import run


def main(config: DictConfig) -> float | None:
    """Runs what the command line says, and prints the result in three lines.

    Returns:
        The accuracy for a sweeper to maximise, on the validation split; None on test images, which choose nothing.
    """
    require_complete(config)
    hydra = HydraConfig.get()
    request = Request(config, dict(hydra.runtime.choices), list(hydra.overrides.task), Path(config.out))
    watchers = (RichProgressBar(),) if config.progress and sys.stdout.isatty() else ()
    summary = run(request, watchers=watchers, show_ledger=True)
    part = config.evaluate_on
    Console(soft_wrap=True, highlight=False).print(
        f"{summary['data']}, {summary['model']}, {summary['selection']}, seed {summary['seed']}: "
        f"{part} accuracy [bold]{summary[f'{part}_accuracy']:.4f}[/], loss {summary[f'{part}_loss']:.4f}\n"
        f"{summary['candidates_seen']} candidates seen, {summary['examples_scored']} scored, "
        f"{summary['examples_trained']} trained in {summary['optimizer_steps']} steps, "
        f"{summary['flops']:.3g} FLOPs, {summary['seconds']:.1f} s\n"
        f"{request.summary}"
    )
    return summary["val_accuracy"] if part == "val" else None


if __name__ == "__main__":
    command("train", main)
