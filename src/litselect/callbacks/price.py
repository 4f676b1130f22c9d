"""What a piece of work costs, by its rows."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

_NONE = 0.0, 0.0


@dataclass(frozen=True)
class Price:
    """A cost that was measured at some numbers of rows.

    Between two of them it is read off the straight line that joins them; beyond them, off the line of the nearest two,
    or, for fewer rows, the line to nothing where that would come to nothing sooner. A single point stands for a cost
    that is proportional to the rows. No rows cost nothing.

    Args:
        points: pairs of rows and cost, in any unit; rows at least 1, each number once.

    Raises:
        ValueError: if there are no points, or they are not of that kind.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        try:
            given = [(float(rows), float(cost)) for rows, cost in self.points]
        except (TypeError, ValueError):
            given = []
        points = tuple(sorted((rows, cost) for rows, cost in given if rows or cost))
        rows = [number for number, _ in points]
        if (
            not points
            or rows[0] < 1
            or len(set(rows)) < len(rows)
            or not all(0 <= cost < math.inf for _, cost in points)
        ):
            raise ValueError(
                "Expected a price to be pairs of rows (>= 1, each number once) and cost (>= 0), but got "
                f"{self.points!r}. One pair such as [[128, 0.05]] prices rows in proportion."
            )
        object.__setattr__(
            self, "points", points if len(points) > 1 and not _falls_short(*points[:2]) else (_NONE, *points)
        )

    def of(self, rows: float) -> float:
        """The cost of so many rows in one piece."""
        if rows <= 0:
            return 0.0
        at = min(max(bisect_left(self.points, (rows,)), 1), len(self.points) - 1)
        (x0, y0), (x1, y1) = self.points[at - 1], self.points[at]
        return max(0.0, y0 + (y1 - y0) * (rows - x0) / (x1 - x0))


def _falls_short(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether the line through two points would be below nothing before it comes to no rows."""
    return one[1] * other[0] < other[1] * one[0]
