"""Settings of arms that were tuned: what `experiments.tune` writes and `experiments.compare` reads."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.errors import UsageError
from experiments.files import write_json

REMEDY = "make it with python -m experiments.tune and all arms of the comparison"


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes:
        overrides: the setting, as on the command line.
        accuracy: on the validation split, after the last epoch.
        folder: name of the run's, in `trials`; of several, with blanks between.
    """

    overrides: list[str]
    accuracy: float
    folder: str


def means(runs: list[Trial]) -> list[Trial]:
    """Runs with the same settings as one trial of their mean accuracy, in the order in which settings first occur."""
    alike: dict[tuple[str, ...], list[Trial]] = {}
    for run in runs:
        alike.setdefault(tuple(run.overrides), []).append(run)
    return [
        Trial(list(setting), fmean(run.accuracy for run in same), " ".join(run.folder for run in same))
        for setting, same in alike.items()
    ]


def best(trials: list[Trial]) -> Trial:
    """That of the highest accuracy, the first of several."""
    return max(trials, key=lambda trial: trial.accuracy)


def best_of_all(trials: dict[str, list[Trial]]) -> Trial:
    """The setting that is best for the mean of the arms, the first of several, and the mean.

    Where arms hardly depend on a setting, the seed of one trial decides which is best for an arm; over all arms it
    decides less, and it favours none.

    Args:
        trials: of each arm, of the same settings in the same order.
    """
    return best(
        [
            Trial(same[0].overrides, fmean(trial.accuracy for trial in same), "")
            for same in zip(*trials.values(), strict=True)
        ]
    )


def write_tuned(file: Path, trials: dict[str, list[Trial]], chosen: dict[str, Trial], command: str) -> None:
    """Writes every trial of every arm, and the overrides that were chosen."""
    arms = {
        arm: {"overrides": chosen[arm].overrides, "tried": [asdict(trial) for trial in tried]}
        for arm, tried in trials.items()
    }
    write_json(file, {"command": command, "arms": arms})


def read_tuned(file: str | None, arms: list[str]) -> dict[str, list[str]]:
    """The overrides of each arm; none at all without a file.

    Args:
        file: that `write_tuned` wrote, or None.
        arms: which are compared.

    Raises:
        UsageError: no such file, or arms that were not given the same number of trials: the one with more wins by luck.
    """
    if file is None:
        return {arm: [] for arm in arms}
    try:
        found: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))["arms"]
        trials = {arm: len(found[arm]["tried"]) if arm in found else 0 for arm in arms}
        overrides = {arm: list(found[arm]["overrides"]) for arm in arms if arm in found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"tuned must be a file of tuned arms, received {file}: {error!r}; {REMEDY}") from error
    if len(set(trials.values())) != 1 or not overrides:
        listed = ", ".join(f"{arm} {count}" for arm, count in trials.items())
        raise UsageError(f"every arm must have had the same number of trials, received {listed} in {file}; {REMEDY}")
    return overrides
