"""A rater on disk, with the ratings of a training set and what they cost."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.callbacks import Cost
from experiments.errors import UsageError
from litselect.scoring import RaterArtifact

REMEDY = "make one with python -m experiments.train_rater and the same data, or leave selection.artifact out"


class RaterFolder:
    """A folder of a `RaterArtifact` that belongs to a training set.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether an artifact was written to its end."""
        return (self.path / "rater.json").exists()

    def write(
        self, artifact: RaterArtifact, scores: Tensor, cost: Cost, fingerprint: str, facts: dict[str, Any]
    ) -> None:
        """Saves `artifact` with the ratings `scores` (`[N]`) of the training set of that fingerprint."""
        artifact.cached[fingerprint] = scores.float().cpu()
        artifact.settings |= {**facts, "fingerprint": fingerprint, "cost": json.loads(cost.to_json())}
        artifact.save(self.path)

    def read(self, fingerprint: str) -> tuple[Tensor, Cost]:
        """The ratings `[N]` of the training set, and what they cost.

        Raises:
            UsageError: there is no such artifact, it was not made by the command, or it belongs to other data.
        """
        try:
            artifact = RaterArtifact.load(self.path)
        except ValueError as error:
            raise UsageError(f"selection.artifact must be the folder of a rater: {error} Or {REMEDY}") from error
        settings = artifact.settings
        if "cost" not in settings:
            raise UsageError(f"a rater must say what it cost, received {self.path}, which does not; {REMEDY}")
        if settings["fingerprint"] != fingerprint or fingerprint not in artifact.cached:
            raise UsageError(f"a rater must belong to the training set, received {self.path} of another one; {REMEDY}")
        return artifact.cached[fingerprint], Cost.from_json(json.dumps(settings["cost"]))
