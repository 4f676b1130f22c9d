"""Learning curves."""

import math
import statistics
from pathlib import Path
from typing import Any

from experiments.report.document import Figure
from experiments.report.group import Group
from experiments.report.outcome import Outcome
from experiments.report.statistics import Spread
from experiments.report.style import COLOURS, Look, canvas, crowded, label_log, legend_below, looks, save

__all__ = ["COLOURS", "learning_curves"]

AXES = (("trained", "examples trained"), ("seconds", "seconds of training"))


def learning_curves(group: Group, file: Path) -> Figure:
    """Draws test error over examples trained and over seconds: means over seeds, bands of one standard deviation."""
    many = crowded(list(group.arms))
    figure, (panels,) = canvas(1, len(AXES), (11, 7 if many else 4.2), sharey=True)
    look = looks(list(group.arms))
    for panel, (column, label) in zip(panels, AXES, strict=True):
        for arm, outcomes in group.arms.items():
            _line(panel, outcomes, column, arm, look[arm], 0.0 if many else 0.15)
        panel.set(xlabel=label, yscale="log")
        panel.grid(which="both", alpha=0.25)
    label_log(panels[0].yaxis)
    measured_on = next(iter(group.arms.values()))[0].summary["learning_curve_on"]
    panels[0].set_ylabel(f"error on the {measured_on}, % (log scale)")
    if many:
        legend_below(figure, panels[0])
    else:
        panels[-1].legend(frameon=False)
    figure.suptitle(group.title)
    bands = "" if many else "; bands show one standard deviation"
    return save(figure, file, f"{group.title}. Mean over seeds{bands}.")


def _line(panel: Any, outcomes: list[Outcome], column: str, arm: str, look: Look, band: float) -> None:
    """Draws one arm; evaluations of the seeds are matched by their number, but the last is that of each one's end."""
    floor = 50 / outcomes[0].summary["test_examples"]  # half an example: zero has no place on a log axis
    points = list(zip(*(outcome.curve() for outcome in outcomes), strict=False))
    ends = tuple(outcome.end() for outcome in outcomes)
    reached = points and all(row["trained"] >= end.get("trained", 0) for row, end in zip(points[-1], ends, strict=True))
    if all(ends) and not reached:
        points.append(ends)  # epochs of an arm that selects are short: its last evaluation may be long before
    x = [statistics.fmean(row[column] for row in rows) for rows in points]
    errors = [Spread.of([max(100 * (1 - row["accuracy"]), floor) for row in rows]) for rows in points]
    deviation = [0.0 if math.isnan(error.std) else error.std for error in errors]
    panel.plot(
        x,
        [error.mean for error in errors],
        color=look.color,
        label=f"{arm} (n={len(outcomes)})",
        linestyle=look.linestyle,
        linewidth=1.8,
        marker="o",
        markevery=[len(x) - 1] if x else 1,
        markersize=4,
    )
    panel.fill_between(
        x,
        [max(error.mean - std, floor) for error, std in zip(errors, deviation, strict=True)],
        [error.mean + std for error, std in zip(errors, deviation, strict=True)],
        color=look.color,
        alpha=band,
        linewidth=0,
    )
