"""The unit of a comparison: one training run, found again on disk when it is done."""

import copy
import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from experiments.calibration import Calibration
from experiments.files import read_json, write_text
from experiments.own_sources import own_sources
from experiments.request import Request

CODE = "code.sha256"
OF_COMPARISON = ("selections", "seeds", "budget", "uniform_budget", "units", "reuse", "tuned")
APART_FROM_RESULT = ("out", "progress", *OF_COMPARISON)  # keys that do not change what is computed


@dataclass(frozen=True)
class Cell:
    """One arm at one budget with one seed.

    Attributes:
        arm: an option of the config group `selection`, and settings of this arm alone, if any, after blanks.
        unit: what the budget counts, see `experiments.budgets`.
        epochs: the budget, as epochs of training on everything.
        seed: of the run.
        label: what reports call the arm, which changes nothing else.
    """

    arm: str
    unit: str
    epochs: int
    seed: int
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The label, or the arm where it has none."""
        return self.label or self.arm

    def overrides(self) -> list[str]:
        """The command line of this cell, apart from what all cells have in common."""
        unit = [] if self.unit == "candidates" else [f"unit={self.unit}"]
        option, *settings = self.arm.split()
        return [f"selection={option}", *settings, f"seed={self.seed}", f"trainer.max_epochs={self.epochs}", *unit]

    def request(self, common: list[str], folder: Path) -> Request:
        """The run of this cell, in a folder of its own whose name changes with the config.

        Args:
            common: overrides that all cells share.
            folder: where cells lie.
        """
        config, choices = _composed(self.arm, tuple(common))
        config = copy.deepcopy(config)
        config.seed, config.unit, config.trainer.max_epochs = self.seed, self.unit, self.epochs
        config.out = str(
            folder / f"{folder_name(self.arm)}-{self.epochs}-{self.unit}-seed{self.seed}-{_digest(config)}"
        )
        overrides = [*common, *self.overrides()]
        return Request(
            config, choices, overrides, Path(config.out), shared_calibration=calibration_file(config, folder)
        )


def folder_name(arm: str) -> str:
    """An arm as a part of the name of a folder."""
    return re.sub(r"[^\w.-]+", "_", arm)


@functools.lru_cache
def _composed(arm: str, common: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
    """The config of an arm, and the option chosen in each group; composing takes longer than a small cell should."""
    option, *settings = arm.split()
    overrides = [*common, f"selection={option}", *settings, "out=''"]
    whole = compose("train", overrides, return_hydra_config=True)
    choices = {str(group): str(option) for group, option in whole.hydra.runtime.choices.items()}
    return OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"]), choices


def finished(request: Request, code: str | None) -> dict[str, Any] | None:
    """The summary of a cell that ran to its end, under the prices that hold now, or None.

    Args:
        request: the run of the cell.
        code: the digest that the packages' code must have had, or None if any will do.
    """
    sealed = request.out / CODE
    if code is not None and (not sealed.exists() or sealed.read_text() != _with_own(code, request)):
        return None
    if not request.summary.exists():
        return None
    summary = read_json(request.summary)
    priced = summary.get("calibration")
    return summary if priced in (None, Calibration.read(request.calibration).identity) else None


def clear(request: Request) -> None:
    """Makes the folder of a run that is about to start, without any sign of an earlier end."""
    request.out.mkdir(parents=True, exist_ok=True)
    for file in (request.summary, request.out / CODE):
        file.unlink(missing_ok=True)


def seal(request: Request, code: str) -> None:
    """Notes with which code a run came to its end."""
    write_text(request.out / CODE, _with_own(code, request))


def _with_own(code: str, request: Request) -> str:
    """The digest of all code that decides a result: `code`, and the modules that the config names beside that."""
    own = own_sources(OmegaConf.to_container(request.config, resolve=True))
    return hashlib.sha256(b"".join([code.encode(), *(file.read_bytes() for file in own)])).hexdigest() if own else code


def table_file(request: Request, code: str) -> Path:
    """Where the irreducible losses lie that a run shares with others of its seed, data, model and budget."""
    config = request.config
    digest = _digest(config, (*APART_FROM_RESULT, "selection", "unit", "keep", "table", "logger"))
    name = f"irreducible-{config.trainer.max_epochs}-seed{config.seed}-{digest}-{code[:8]}.safetensors"
    return request.out.parent / name


def rater_folder(request: Request, code: str) -> Path:
    """Where the rater lies that a run shares with others of its seed, data, model and meta-training."""
    config = request.config
    budget = ("trainer", "unit", "schedule", "optimizer", "logger")
    digest = _digest(config, (*APART_FROM_RESULT, *budget, "selection", "keep", "table"))
    return request.out.parent / f"rater-seed{config.seed}-{digest}-{code[:8]}"


def calibration_file(config: DictConfig, folder: Path) -> Path:
    """Where the calibration lies that runs of one network, precision and so on have in common."""
    parts = ("model", "channels_last", "threads")
    data = ("crop", "flip", "cutout", "on_device", "size")
    trainer = ("precision", "accelerator", "devices")
    about = {
        **{name: config[name] for name in parts},
        "optimizer": config.optimizer._target_,
        "data": {name: config.data.get(name) for name in data},
        "trainer": {name: config.trainer.get(name) for name in trainer},
    }
    return folder / f"calibration-{_digest(OmegaConf.create(about))}.json"


def code_digest() -> str:
    """A digest of the sources that decide a result: the package, and the experiments but for their reports."""
    import litselect

    own = Path(__file__).parent
    files = [*Path(str(litselect.__file__)).parent.rglob("*.py")]
    files += [file for file in own.rglob("*.py") if file.relative_to(own).parts[0] not in ("report", "compare.py")]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _digest(config: DictConfig, apart: tuple[str, ...] = APART_FROM_RESULT) -> str:
    result = OmegaConf.to_container(config, resolve=True)
    assert isinstance(result, dict)  # a config file holds a mapping
    plain = {str(key): value for key, value in result.items() if key not in apart}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
