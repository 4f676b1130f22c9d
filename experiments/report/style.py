"""How arms look, the same in every figure."""

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
    return figure, list(panels.flat[:count])


def save(figure: Any, file: Path, caption: str) -> Figure:
    """Writes a PNG file."""
    from matplotlib import pyplot

    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=140)
    pyplot.close(figure)
    return Figure(file, caption)


def label_log(axis: Any) -> None:
    """Writes numbers beside the ticks of a log axis: all of them where there are few, else 1, 2, 3 and 5."""
    low, high = axis.get_view_interval()
    digits = "123456789" if high < 4 * low else "1235"
    for setter in (axis.set_major_formatter, axis.set_minor_formatter):
        setter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in digits else "")


def label_budgets(axis: Any, budgets: list[int]) -> None:
    """Ticks of a log axis at the budgets and nowhere else."""
    axis.set_ticks(budgets, [str(budget) for budget in budgets])
    axis.set_ticks([], minor=True)
