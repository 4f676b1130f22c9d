"""Train a rater: `python -m experiments.train_rater data=digits data.label_noise=0.4 data.heldout_fraction=0.1`.

For `python -m experiments.train selection=rated selection.artifact=...` with the same data. The rater is judged on the
held-out part; without `data.heldout_fraction`, on a tenth of the training set, as corrupted as the rest. What it cost
lies in the artifact and is charged to every run that uses it.
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from experiments.arms import BASELINE
from experiments.build import build
from experiments.cli import command, require_complete
from experiments.data import Source
from experiments.errors import UsageError
from experiments.rating.folder import RaterFolder
from experiments.rating.making import CURVE, make_rater


def main(config: DictConfig) -> None:
    """Trains the rater, and prints where it is, what it knows and what it cost."""
    require_complete(config)
    hydra = HydraConfig.get()
    selection = dict(hydra.runtime.choices)["selection"]
    if selection != BASELINE:
        raise UsageError(f"a rater weighs every row itself, received selection={selection}; leave it out")
    source: Source = build(config, "data")
    line = ("python", "-m", "experiments.train_rater", *hydra.overrides.task)
    folder = RaterFolder(Path(config.out) / "rater")
    cost = make_rater(config, folder, source.read(), line)
    last = (folder.path / CURVE).read_text().splitlines()[-1].split(",")
    Console(soft_wrap=True, highlight=False).print(
        f"AUROC against the planted corruption {float(last[1]):.4f} after {last[0]} meta-steps\n"
        f"{cost.tally.trained} rows trained in {cost.tally.steps} inner steps, {cost.flops:.3g} FLOPs, "
        f"{cost.seconds:.1f} s\n{folder.path}"
    )


if __name__ == "__main__":
    command("train_rater", main)
