"""Make a table of irreducible losses: `python -m experiments.irreducible_loss data=digits cross_fit=true`.

For `python -m experiments.train selection=reducible_loss table=...` with the same data. Without `cross_fit` the model
is trained on the held-out part (`data.heldout_fraction=0.1`) or the validation split (`data.val_fraction=0.3`), for the
runs too. What the table cost lies in the file and
is added to the counts of every run that uses it.
"""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console

from experiments.arms import BASELINE
from experiments.build import build
from experiments.cli import command, require_complete
from experiments.data import Source
from experiments.errors import UsageError
from experiments.irreducible import make_table


def main(config: DictConfig) -> None:
    """Makes the table, and prints where it is and what it cost."""
    require_complete(config)
    hydra = HydraConfig.get()
    selection = dict(hydra.runtime.choices)["selection"]
    if selection != BASELINE:
        raise UsageError(f"the model is trained on every row, received selection={selection}; leave it out")
    source: Source = build(config, "data")
    line = ("python", "-m", "experiments.irreducible_loss", *hydra.overrides.task)
    watchers = (RichProgressBar(),) if config.progress and sys.stdout.isatty() else ()
    cost = make_table(config, Path(config.table), source.read(), config.cross_fit, watchers, line)
    tally = cost.tally
    Console(soft_wrap=True, highlight=False).print(
        f"{tally.trained} rows trained in {tally.steps} steps, {tally.scored} scored, {cost.flops:.3g} FLOPs, "
        f"{cost.seconds:.1f} s\n{config.table}"
    )


if __name__ == "__main__":
    command("irreducible_loss", main)
