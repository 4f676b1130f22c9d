"""A rater that learns beside the training: what `selection=datarater` stands for."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from experiments.callbacks import Cost
from experiments.data import ImageData, Images
from experiments.errors import UsageError
from experiments.rating.making import REFUSED
from litselect.callbacks import DataRater


@dataclass(frozen=True, kw_only=True)
class Online:
    """Builds the selection callback once the held-out rows are known.

    Attributes:
        keep: fraction of a batch that is trained.
        every: batches from one look-ahead to the next.
        heldout: fraction of the training rows that judge the others and are not trained, where
            `data.heldout_fraction` has set none aside.
        settings: further keywords of `litselect.callbacks.DataRater`.
    """

    keep: float
    every: int
    heldout: float
    settings: dict[str, object]

    def ready(
        self, config: DictConfig, data: ImageData, parts: tuple[Images, Images], folder: Path
    ) -> tuple[DataRater, Cost]:
        """The callback, which costs nothing before training.

        Raises:
            UsageError: held-out rows that are trained.
        """
        if data.source.heldout_trained:
            raise UsageError(REFUSED)
        heldout = data.heldout_dataloader() if len(data.heldout) else self.heldout
        settings: dict[str, object] = {"keep": self.keep, "every": self.every, **self.settings}
        return DataRater(heldout=heldout, **settings), Cost()  # type: ignore[arg-type] - the callback checks them
