"""Learning curves."""

import math
from pathlib import Path
from typing import Any

from experiments.arms import BASELINE
from experiments.report.content import Group
from experiments.report.document import Figure
from experiments.report.outcome import Outcome
from experiments.report.statistics import Spread

DASHES = ("-", "--", ":", "-.")  # one for each turn through the colours
AXES = (("trained", "examples trained"), ("seconds", "seconds of training"))
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
)  # Okabe & Ito: told apart by all


def learning_curves(group: Group, file: Path) -> Figure:
    """Draws test error over examples trained and over seconds: means over seeds, bands of one standard deviation."""
    import matplotlib

    matplotlib.use("Agg")  # draws without a display
    from matplotlib import pyplot

    many = len(group.arms) > len(COLOURS) + 1
    figure, panels = pyplot.subplots(1, len(AXES), figsize=(11, 7 if many else 4.2), sharey=True, layout="constrained")
    others = [arm for arm in group.arms if arm != BASELINE]
    for panel, (column, label) in zip(panels, AXES, strict=True):
        for arm, outcomes in group.arms.items():
            turn, place = (0, 0) if arm == BASELINE else divmod(others.index(arm), len(COLOURS))
            colour = "#222222" if arm == BASELINE else COLOURS[place]
            _line(panel, outcomes, column, arm, colour, DASHES[turn % len(DASHES)], 0.0 if many else 0.15)
        panel.set(xlabel=label, yscale="log")
        panel.grid(which="both", alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    _label(panels[0].yaxis)
    measured_on = next(iter(group.arms.values()))[0].summary["learning_curve_on"]
    panels[0].set_ylabel(f"error on the {measured_on}, % (log scale)")
    if many:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    else:
        panels[-1].legend(frameon=False)
    figure.suptitle(group.title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=140)
    pyplot.close(figure)
    bands = "" if many else "; bands show one standard deviation"
    return Figure(file, f"{group.title}. Mean over seeds{bands}.")


def _label(axis: Any) -> None:
    """Writes numbers beside the ticks of a log axis: all of them where there are few, else 1, 2, 3 and 5."""
    low, high = axis.axes.get_ylim()
    digits = "123456789" if high < 4 * low else "1235"
    for setter in (axis.set_major_formatter, axis.set_minor_formatter):
        setter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in digits else "")


def _line(panel: Any, outcomes: list[Outcome], column: str, arm: str, colour: str, dashes: str, band: float) -> None:
    """Draws one arm; evaluations of the seeds are matched by their number."""
    floor = 50 / outcomes[0].summary["test_examples"]  # half an example: zero has no place on a log axis
    points = list(zip(*(outcome.curve() for outcome in outcomes), strict=False))
    x = [Spread.of([row[column] for row in rows]).mean for rows in points]
    errors = [Spread.of([max(100 * (1 - row["accuracy"]), floor) for row in rows]) for rows in points]
    deviation = [0.0 if math.isnan(error.std) else error.std for error in errors]
    panel.plot(
        x,
        [error.mean for error in errors],
        color=colour,
        label=f"{arm} (n={len(outcomes)})",
        linestyle=dashes,
        linewidth=1.8,
    )
    panel.fill_between(
        x,
        [max(error.mean - std, floor) for error, std in zip(errors, deviation, strict=True)],
        [error.mean + std for error, std in zip(errors, deviation, strict=True)],
        color=colour,
        alpha=band,
        linewidth=0,
    )
