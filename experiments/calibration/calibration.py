"""The file that lies beside the results."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.callbacks.tally import Tally
from experiments.data import ImageData
from experiments.files import read_json, write_json
from litselect.callbacks import Price, Prices
from litselect.scoring import ScoringPass

Points = dict[int, float]


@dataclass
class Calibration:
    """Seconds of each piece of work by its rows, all measured on one machine.

    Attributes:
        pieces: seconds by rows, by the name of a piece: "load", "train", "select", and "score" or "proxy" with the
            scoring pass it is about.
        settings: what was calibrated: network, batch size, precision and so on.
        machine: hardware and versions.
        identity: tells one calibration from another, whatever is added to it later.
    """

    pieces: dict[str, Points] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    identity: str = ""

    @classmethod
    def read(cls, file: Path) -> "Calibration":
        """The calibration in `file`; an empty one if there is none."""
        if not file.exists():
            return cls()
        found = read_json(file)
        pieces = {name: {int(rows): cost for rows, cost in points.items()} for name, points in found["pieces"].items()}
        return cls(pieces, found["settings"], found["machine"], found["identity"])

    def holds_for(self, data: ImageData, code: str | None) -> bool:
        """Whether it was measured on such images with these versions, and with this code (None: with any)."""
        made_with = self.settings.get("code")
        return not self.pieces or (
            self.settings["image"] == list(data.train.pixels.shape[1:])
            and self.settings.get("classes") == data.train.classes
            and self.machine["torch"] == version("torch")
            and (code is None or made_with == code)
        )

    def write(self, file: Path) -> None:
        """Writes it, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.identity = self.identity or hashlib.sha256(json.dumps(self.pieces).encode()).hexdigest()[:12]
        write_json(file, asdict(self))

    def prices(self, selection: Any, free: bool) -> Prices:
        """The prices of a training.

        Args:
            selection: its selection callback, or None.
            free: whether scores and selection cost nothing: the ceiling of what any cheaper score could gain.
        """
        kinds = {"load": "load", "train": "train"}
        if selection is not None and not free:
            kinds |= {"select": "select", **scoring_pieces(selection.scoring)}
        return Prices({kind: self._price(piece) for kind, piece in kinds.items()})

    def uniform(self, rows: int, batch_size: int) -> float:
        """Seconds of an epoch of plain training."""
        prices = self.prices(None, free=False).kinds
        return sum(
            (rows // batch_size) * price.of(batch_size) + price.of(rows % batch_size) for price in prices.values()
        )

    def rows(self, tally: Tally, batch_size: int) -> float:
        """Seconds of rows that were scored and trained before, at the prices of whole batches."""
        prices = self.prices(None, free=False).kinds
        each = {name: price.of(batch_size) / batch_size for name, price in prices.items()}
        (piece,) = scoring_pieces(ScoringPass()).values()
        score = self._price(piece).of(batch_size) / batch_size
        return tally.trained * (each["train"] + each["load"]) + tally.scored * (score + each["load"])

    def _price(self, piece: str) -> Price:
        return Price(tuple(self.pieces[piece].items()))


def scoring_pieces(scoring: ScoringPass) -> dict[str, str]:
    """The pieces that a scoring pass consists of, by the kind of work whose price they are."""
    about = repr(scoring)
    if scoring.proxy is not None:  # of which the representation says the class alone
        shapes = [(name, tuple(parameter.shape)) for name, parameter in scoring.proxy.named_parameters()]
        about += f" {hashlib.sha256(f'{scoring.proxy} {shapes}'.encode()).hexdigest()[:8]}"
    pieces = {"score": f"score {about}"}
    return pieces if scoring.proxy_optimizer is None else {**pieces, "proxy": f"proxy {about}"}
