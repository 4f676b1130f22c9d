"""How arms look, the same in every figure."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.arms import BASELINE
from experiments.report.document import Figure

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
)  # Okabe & Ito: told apart by all
DASHES = ("-", "--", ":", "-.")  # one for each turn through the colours
MARKERS = ("o", "s", "^", "D")  # likewise
DENSE = tuple(tenths / 10 for tenths in (*range(10, 20), *range(20, 50, 2), *range(50, 100, 5)))  # of a log axis
INK = "#222222"  # of the baseline, and of text


@dataclass(frozen=True)
class Look:
    """Of a line.

    Attributes:
        color: of matplotlib.
        linestyle: likewise.
        marker: likewise, of single points.
    """

    color: str
    linestyle: str
    marker: str


def looks(arms: list[str]) -> dict[str, Look]:
    """By arm: the baseline in ink, the others in turns of colours."""
    found = {BASELINE: Look(INK, "-", "o")}
    for number, arm in enumerate(arm for arm in arms if arm != BASELINE):
        turn, place = divmod(number, len(COLOURS))
        found[arm] = Look(COLOURS[place], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)])
    return found


def crowded(arms: list[str]) -> bool:
    """Whether bands would hide each other."""
    return len(arms) > len(COLOURS) + 1


def canvas(rows: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Any, Any]:
    """A figure and its panels `[rows, columns]`, for a machine without display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **shared)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def small_multiples(count: int, columns: int = 4, height: float = 2.3, **shared: Any) -> tuple[Any, list[Any]]:
    """A figure and that many panels, in rows."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, panels = canvas(rows, columns, (max(11 / 4 * columns, 5), height * rows + 0.5), **shared)
    for panel in panels.flat[count:]:
        panel.remove()
    for panel in panels.flat[max(0, count - columns) : count]:
        panel.xaxis.set_tick_params(labelbottom=True)  # also above an empty place, where axes are shared
    return figure, list(panels.flat[:count])


def legend_below(figure: Any, panel: Any) -> Any:
    """A legend of a panel's lines under all panels, in as many columns as there is room for, four at the most."""
    legend = None
    for columns in (4, 3, 2, 1):
        if legend is not None:
            legend.remove()
        place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
        legend = figure.legend(*panel.get_legend_handles_labels(), **place)
        if legend.get_window_extent().width <= figure.bbox.width:
            break
    return legend


def legend_of(figure: Any, panel: Any, many: bool) -> Any:
    """A legend of a panel's lines: beside it, or below where they are many."""
    return legend_below(figure, panel) if many else figure.legend(loc="outside right upper", frameon=False)


def save(figure: Any, file: Path, caption: str) -> Figure:
    """Writes a PNG file."""
    from matplotlib import pyplot

    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=140)
    pyplot.close(figure)
    return Figure(file, caption)


def label_log(axis: Any) -> None:
    """Ticks of a log axis at 1, 2, 3 and 5 times powers of ten, more of them where that makes few."""
    low, high = axis.get_view_interval()
    digits = (1, 2, 3, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 6, 8) if high > 2.5 * low else DENSE
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def label_budgets(axis: Any, budgets: list[int]) -> None:
    """Ticks of a log axis at the budgets and nowhere else."""
    axis.set_ticks(budgets, [str(budget) for budget in budgets])
    axis.set_ticks([], minor=True)
