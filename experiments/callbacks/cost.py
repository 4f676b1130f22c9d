"""What work has cost, in every unit that is counted."""

import json
from dataclasses import asdict, dataclass, field

from experiments.callbacks.tally import Tally


@dataclass(frozen=True)
class Cost:
    """Rows, steps, seconds and operations.

    Attributes:
        tally: rows and steps.
        seconds: wall-clock seconds.
        cpu_seconds: processor seconds, all threads together.
        flops: floating-point operations.
    """

    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    flops: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.tally + other.tally,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.flops + other.flops,
        )

    def shared(self, among: float) -> "Cost":
        """The part of each of `among` runs; nothing where that is infinite."""
        return Cost(self.tally.shared(among), self.seconds / among, self.cpu_seconds / among, round(self.flops / among))

    def to_json(self) -> str:
        """One line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Cost":
        """What `to_json` gave."""
        fields = json.loads(text)
        return cls(**{**fields, "tally": Tally(**fields["tally"])})
