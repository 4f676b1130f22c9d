"""What is asked of a run, and where its files lie."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        config: as composed from `conf/train.yaml`.
        choices: the option chosen in each config group.
        overrides: the command line that makes `config`.
        out: an existing folder for `summary.json`, `curve.csv` and the logger's files.
        shared_table: irreducible losses that runs have in common, made by the first that needs them; None lets this run
            make its own, in `out`.
        shared_rater: the same for the folder of a rater.
        shared_calibration: the same for the seconds of a budget in reference time.
    """

    config: DictConfig
    choices: dict[str, str]
    overrides: list[str]
    out: Path
    shared_table: Path | None = None
    shared_rater: Path | None = None
    shared_calibration: Path | None = None

    @property
    def calibration(self) -> Path:
        """Where the calibration lies, or is to lie."""
        return self.shared_calibration or self.out / "calibration.json"

    @property
    def summary(self) -> Path:
        """The file that a run writes last."""
        return self.out / "summary.json"

    @property
    def curve(self) -> Path:
        """The learning curve."""
        return self.out / "curve.csv"
