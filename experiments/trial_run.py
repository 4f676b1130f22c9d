"""One trial of a tuning: what a sweeper's job does."""

import logging
from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments import launch
from experiments.build import build
from experiments.cell import Cell, clear, code_digest, finished, seal
from experiments.files import write_json
from experiments.run import run
from experiments.tuned import Trial

FILE = "trial.json"


class TrialRun:
    """Trains with the settings of a job, unless the same was trained before, and notes the result in the job's folder.

    Args:
        folder: where runs lie.
        tuned: keys of the settings that are tried.
    """

    def __init__(self, folder: Path, tuned: set[str]) -> None:
        self.folder = folder
        self.tuned = tuned
        self.code = code_digest()

    def __call__(self, config: DictConfig) -> float:
        """The accuracy on the validation split."""
        logging.getLogger("experiments").setLevel(logging.WARNING)  # this process may be a new one
        hydra = HydraConfig.get()
        overrides, arm = list(hydra.overrides.task), str(hydra.runtime.choices["selection"])
        common = [override for override in overrides if override != f"selection={arm}"]
        cell = Cell(arm, config.unit, config.trainer.max_epochs, config.seed)
        request = cell.request(common, self.folder)
        summary = finished(request, self.code)
        if summary is None:
            clear(request)
            summary = run(request, launch.read(build(request.config, "data")))
            seal(request, self.code)
        accuracy: float = summary["val_accuracy"]
        tried = [override for override in overrides if override.partition("=")[0] in self.tuned]
        write_json(Path(hydra.runtime.output_dir) / FILE, asdict(Trial(tried, accuracy, request.out.name)))
        return accuracy
