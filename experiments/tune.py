"""Tune arms: `python -m experiments.tune data=digits selections=[uniform,selective_backprop]`.

Every arm gets the same number of trials, `uniform` too, and is judged on a split of the training set after the last
epoch; test images are never looked at. Without further installations a grid of `learning_rates`; with
`hydra/sweeper=optuna trials=8`, Optuna's choice between the least and the greatest of them. `space` adds other settings
for the arms that select; arms that train everything then try more learning rates instead. With `trial_seeds=3` a trial
is the mean of three runs, with `pooled=true` all arms get the setting that is best for their mean. Writes `tuned.json`
into `runs/tune/<data>-<model>`, for `python -m experiments.compare tuned=...`. Finished trials are kept.
"""

import math
import shlex
from pathlib import Path

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from rich.console import Console

from experiments import launch
from experiments.arms import TRAIN_EVERYTHING, chosen_arms, option_of
from experiments.cell import folder_name
from experiments.cli import command, require_complete
from experiments.errors import UsageError
from experiments.files import read_json
from experiments.overrides import handed_on
from experiments.trial_run import FILE, TrialRun
from experiments.tuned import Trial, best, best_of_all, means, write_tuned

RATE = "optimizer.lr"
OWN_KEYS = ("selections", "learning_rates", "space", "trials", "trial_seeds", "pooled")
PER_TRIAL = ("selection", "evaluate_on", "out", RATE)
RULE = "tune sets {} for each of its trials"
INSTEAD = "selections=[...] and learning_rates=[...]"


def main(config: DictConfig) -> None:
    """Sweeps the settings of every arm, and writes and prints what was best."""
    require_complete(config)
    hydra = HydraConfig.get()
    overrides, out = list(hydra.overrides.task), Path(hydra.runtime.output_dir)
    common = [
        *handed_on(overrides, OWN_KEYS, PER_TRIAL, RULE, INSTEAD),
        "evaluate_on=val",
        f"data.val_fraction={config.data.val_fraction}",
    ]
    optuna = launch.chosen("sweeper") == "optuna"
    if not isinstance(config.pooled, bool):
        raise UsageError(f"pooled must be true or false, received {config.pooled!r}")
    if config.pooled and (optuna or config.space):
        raise UsageError(
            f"pooled=true needs arms that all try the same, received space={list(config.space)} and "
            f"hydra/sweeper={launch.chosen('sweeper')}; leave these out, or pooled=true"
        )
    seeds = _seeds(config, optuna)
    spaces = {arm: _space(config, optuna, option_of(arm) in TRAIN_EVERYTHING) for arm in chosen_arms(config)}
    for arm, space in spaces.items():
        _refuse_fixed(arm, space)
    settings, rates = _sampling(config, optuna), [float(rate) for rate in config.learning_rates]
    job = TrialRun(out / "trials", {sweep.partition("=")[0] for space in spaces.values() for sweep in space})
    console, trials = Console(soft_wrap=True, highlight=False), dict[str, list[Trial]]()
    for arm, space in spaces.items():
        option, *own = arm.split()
        folder = out / "sweeps" / folder_name(arm)
        for file in folder.glob(f"*/{FILE}"):
            file.unlink()  # of an earlier call; what it trained lies elsewhere and is kept
        launch.sweeper(job, folder, *settings).sweep([f"selection={option}", *common, *own, *space, *seeds])
        files = sorted(folder.glob(f"*/{FILE}"), key=lambda file: int(file.parent.name))
        trials[arm] = means([Trial(**read_json(file)) for file in files])
        found = best(trials[arm])
        console.print(
            f"{arm}: {' '.join(found.overrides)}, best of {len(trials[arm])}, validation accuracy {found.accuracy:.4f}"
            + _beyond(found, rates)
        )
    asked = [override for override in hydra.overrides.hydra if override != "hydra.mode=RUN"]  # Hydra's own addition
    line = shlex.join(["python", "-m", "experiments.tune", *asked, *overrides])
    chosen = _chosen(trials, config.pooled, rates, console)
    write_tuned(out / "tuned.json", trials, chosen, line)
    console.print(f"python -m experiments.compare tuned={out / 'tuned.json'} uses them.")


def _refuse_fixed(arm: str, space: list[str]) -> None:
    """What an arm fixes can't be tried: comparisons would train what it says, at what was best for something else."""
    fixed, tried = ({one.lstrip("+~").partition("=")[0] for one in overrides} for overrides in (arm.split()[1:], space))
    if both := sorted(fixed & tried):
        raise UsageError(
            f"each setting is either the arm's own or tried, received {', '.join(both)} in both the arm {arm!r} and "
            f"what is tuned; leave it out of one"
        )


def _chosen(trials: dict[str, list[Trial]], pooled: bool, rates: list[float], console: Console) -> dict[str, Trial]:
    """What each arm gets."""
    if not pooled:
        return {arm: best(tried) for arm, tried in trials.items()}
    found = best_of_all(trials)
    console.print(
        f"all arms: {' '.join(found.overrides)}, mean validation accuracy {found.accuracy:.4f}" + _beyond(found, rates)
    )
    return dict.fromkeys(trials, found)


def _beyond(found: Trial, rates: list[float]) -> str:
    """A remark on a best rate that is the least or the greatest of `rates`: a better one may lie beyond."""
    rate = next(float(value) for name, _, value in (o.partition("=") for o in found.overrides) if name == RATE)
    ends = {"least": min(rates), "greatest": max(rates)}
    end = next((end for end, value in ends.items() if f"{value:.4g}" == f"{rate:.4g}"), None)
    return "" if end is None else f" (the {end} learning rate that was tried: widen learning_rates)"


def _space(config: DictConfig, optuna: bool, plain: bool) -> list[str]:
    """What is swept for an arm, in Hydra's syntax.

    Args:
        config: of the application.
        optuna: whether ranges can be searched, else it is a grid.
        plain: whether the arm trains everything, so that `space` means nothing to it: on a grid it tries more learning
            rates of the same range, until its trials are as many.
    """
    rates = [float(rate) for rate in config.learning_rates]
    low, high = min(rates, default=0.0), max(rates, default=0.0)
    if not 0 < low < high:
        raise UsageError(
            f"learning_rates must be two or more different numbers above 0, received {rates}; "
            "set learning_rates=[0.05,0.1,0.2]"
        )
    others = [] if plain else list(config.space)
    if optuna:
        return [f"{RATE}=tag(log, interval({low}, {high}))", *others]
    parsed = OverridesParser.create().parse_overrides(list(config.space))
    if any(sweep.is_interval_sweep() for sweep in parsed):
        raise UsageError(f"a grid needs lists of values, received space={list(config.space)}; try keep=0.25,0.5")
    if plain and parsed:
        settings = math.prod(len(list(sweep.sweep_string_iterator())) for sweep in parsed if sweep.is_discrete_sweep())
        rates = np.geomspace(low, high, len(rates) * settings).tolist()
    return [f"{RATE}={','.join(f'{rate:.4g}' for rate in rates)}", *others]


def _seeds(config: DictConfig, optuna: bool) -> list[str]:
    """The sweep over the runs of a trial, in Hydra's syntax; none of a single run."""
    count = config.trial_seeds
    if type(count) is not int or count < 1 or (optuna and count > 1):
        raise UsageError(
            f"trial_seeds must be an integer of at least 1, and 1 with hydra/sweeper=optuna, received {count!r} and "
            f"hydra/sweeper={launch.chosen('sweeper')}; leave it out, or tune on a grid"
        )
    return [f"seed={','.join(str(config.seed + one) for one in range(count))}"] if count > 1 else []


def _sampling(config: DictConfig, optuna: bool) -> list[str]:
    """What the sweeper is told."""
    if not optuna:
        if config.trials is not None:
            raise UsageError(
                f"a grid tries every learning rate, received trials={config.trials}; leave it out, or install the "
                "extra `sweeps` and set hydra/sweeper=optuna"
            )
        return []
    if type(config.trials) is not int or config.trials < 1:
        raise UsageError(f"trials must be an integer of at least 1, received {config.trials}; set trials=8")
    told = {"n_trials": config.trials, "direction": "maximize", "sampler.seed": config.seed}
    return [f"hydra.sweeper.{key}={value}" for key, value in told.items()]


if __name__ == "__main__":
    command("tune", main)
