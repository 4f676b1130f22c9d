"""Training by ratings that were made before: what `selection=rated` stands for."""

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from experiments.callbacks import Cost
from experiments.data import ImageData, Images
from experiments.errors import UsageError
from experiments.irreducible import make_table
from experiments.irreducible.table import Table
from experiments.rating.folder import RaterFolder
from experiments.rating.making import make_rater
from litselect.callbacks import ExampleSelection
from litselect.selectors import RatedSubset

log = logging.getLogger(__name__)
SOURCES = ("rater", "heldout_model", "truth")


@dataclass(frozen=True, kw_only=True)
class Rated:
    """Builds the selection callback once the training set is known, with the ratings of its rows.

    Attributes:
        keep: fraction of a batch that is trained.
        hard: keep the best rated, as the paper does, instead of drawing.
        within_class: rank ratings within the class.
        temperature: of the draw.
        source: whose ratings. "rater": of an artifact. "heldout_model", a control: minus the losses of a model that is
            trained on the held-out part. "truth", a bound: 0 for the clean rows, far less for the corrupted.
        artifact: folder of a rater that `python -m experiments.train_rater` made; None makes one.
        runs: number of runs among which the cost of the ratings is shared; `inf` leaves it out.
    """

    keep: float
    hard: bool
    within_class: bool
    temperature: float
    source: str
    artifact: str | None
    runs: float

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UsageError(f"selection.source must be one of {', '.join(SOURCES)}, received {self.source}")
        if not self.runs >= 1:
            raise UsageError(f"selection.runs must be at least 1, received {self.runs}; set selection.runs=1")
        self._selector()  # refuses bad settings before anything is made

    def ready(
        self, config: DictConfig, data: ImageData, parts: tuple[Images, Images], folder: Path
    ) -> tuple[ExampleSelection, Cost]:
        """The callback, and this run's share of what its ratings cost.

        Args:
            config: of the run.
            data: as it is trained on.
            parts: the clean training and test set.
            folder: where ratings lie or are to lie if no artifact is named; other runs may share it.

        Raises:
            UsageError: an artifact of other data.
        """
        ratings, cost = self._ratings(config, data, parts, folder)
        return ExampleSelection(self._selector(), ratings=ratings), cost.shared(self.runs)

    def _selector(self) -> RatedSubset:
        return RatedSubset(self.keep, self.temperature, self.hard, self.within_class)

    def _ratings(
        self, config: DictConfig, data: ImageData, parts: tuple[Images, Images], folder: Path
    ) -> tuple[Tensor, Cost]:
        if self.source == "truth":
            return -100.0 * data.corrupted, Cost()
        if self.source == "heldout_model":
            file = folder.with_name(f"{folder.name}-heldout-{config.trainer.max_epochs}.safetensors")
            if not file.exists():
                make_table(config, file, parts, cross_fit=False, by_accuracy=True)
            table = Table(str(file))
            return -table.losses(), table.cost(data.fingerprint())
        rater = RaterFolder(folder if self.artifact is None else Path(self.artifact))
        if self.artifact is None and not rater.exists:
            make_rater(config, rater, parts)
        return rater.read(data.fingerprint())
