"""From seconds to fractions of a plain step, beside their floors."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from experiments.records import Row
from experiments.step_costs import floors
from experiments.step_costs.kinds import Kind
from experiments.step_costs.options import OPTIONS, Option, scoring_epoch

PLAIN, FEWER, FORWARD = "plain", "k rows", "forward"
"""A plain step of N and of k rows, and the forward pass of training."""

Key = str | Kind
"""Of an arm: an option's name, one of the three above, or the kind of a bare scoring pass."""


@dataclass(frozen=True)
class Block:
    """What has been measured by turns.

    Attributes:
        seconds: of a step or a part, by round.
        bytes: at the peak of a step.
        kept: k / N.
    """

    seconds: Mapping[Key, Sequence[float]]
    bytes: Mapping[Key, int]
    kept: float

    def rows(self, names: Sequence[str]) -> Iterator[Row]:
        """One for each option, and for the mean of an option's two epochs."""
        for name in names:
            yield self._row(name, OPTIONS[name], [self._relative(name)])
            if both := OPTIONS[name].both:
                other = scoring_epoch(name)
                yield self._row(both, OPTIONS[both], [self._relative(name), self._relative(other)], other)

    def _relative(self, key: Key) -> list[float]:
        return [own / plain for own, plain in zip(self.seconds[key], self.seconds[PLAIN], strict=True)]

    def _row(self, name: str, option: Option, epochs: list[list[float]], largest: str | None = None) -> Row:
        measured = [statistics.fmean(values) for values in zip(*epochs, strict=True)]
        steps, forwards = self._relative(FEWER), self._relative(FORWARD)
        scores = [0.0] * len(steps) if option.kind is None else self._relative(option.kind)
        floor = [self._floor(option, at, scores, steps, forwards) for at in range(len(steps))]
        ratios = [own / least for own, least in zip(measured, floor, strict=True)]
        low, high = _quartiles(measured)
        memory = self.bytes.get(largest or name, 0) / (self.bytes.get(PLAIN) or 1)
        middle = statistics.median
        return {
            "option": name, "plain_ms": f"{1e3 * middle(self.seconds[PLAIN]):.3f}",
            "measured": f"{middle(measured):.4f}", "measured_25": f"{low:.4f}", "measured_75": f"{high:.4f}",
            "score": f"{middle(scores):.4f}", "forward": f"{middle(forwards):.4f}", "step_k": f"{middle(steps):.4f}",
            "floor": f"{middle(floor):.4f}", "ratio": f"{middle(ratios):.4f}",
            "memory": f"{memory:.4f}" if memory else "",
        }  # fmt: skip

    def _floor(self, option: Option, at: int, scores: list[float], steps: list[float], forwards: list[float]) -> float:
        """In one round."""
        if option.floor == "reuse":
            return floors.of_reuse(forwards[at], self.kept)
        if option.floor == "cheapest":
            looked_at = [key for key in self.seconds if isinstance(key, Kind) and key.measured_by_auto]
            return floors.of_cheapest([self._relative(key)[at] for key in looked_at], steps[at])
        return floors.of_parts(scores[at], steps[at], option.share)


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
