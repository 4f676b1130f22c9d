"""The figure of memory and time."""

from pathlib import Path
from typing import Any

from experiments.records import Row
from experiments.report.plots import COLOURS

MARKS = {"unroll": "o", "adjoint": "s", "jvp": "*", "fd": "^"}
SIZES = "parameters"  # the series that varies them; the others vary T


def draw(rows: list[Row], file: Path) -> None:
    """Memory above, time below, as multiples of a plain step; a column for each series."""
    import matplotlib

    matplotlib.use("Agg")  # draws without a display
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["series"] for row in rows))
    figure, panels = pyplot.subplots(2, len(names), figsize=(3.6 * len(names), 5.4), sharex="col", layout="constrained")
    for column, name in enumerate(names):
        own = [row for row in rows if row["series"] == name]
        key, first = ("parameters", own[0]) if name == SIZES else ("steps", own[0])
        for (estimator, mark), colour in zip(MARKS.items(), COLOURS, strict=False):
            line = [row for row in own if row["estimator"] == estimator]
            if line:
                style = {"color": colour, "marker": mark, "label": estimator, "markersize": 9 if mark == "*" else 5}
                style["linestyle"] = "--" if estimator == "fd" else "-"  # it often lies on the adjoint
                _line(panels[:, column], line, [float(row[key]) for row in line], style)
        what = f"T = {first['steps']}" if name == SIZES else f"{int(first['parameters']):,} parameters"
        panels[0, column].set_title(f"{first['network']}, {what}, batches of {first['rows']}", fontsize=9)
        panels[1, column].set(xlabel="parameters" if name == SIZES else "T, steps in the window", xscale="log")
        if name != SIZES:
            ticks = sorted({int(row["steps"]) for row in own})
            panels[1, column].set_xticks(ticks, list(map(str, ticks)))
            panels[1, column].minorticks_off()
    for panel in panels.flat:
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("peak memory, plain steps")
    panels[1, 0].set_ylabel("time, plain steps")
    panels[0, 0].legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _line(panels: Any, line: list[Row], x: list[float], style: dict[str, Any]) -> None:
    panels[0].plot(x, [int(row["memory"]) / int(row["plain_memory"]) for row in line], linewidth=1.6, **style)
    low, middle, high = ([float(row[f"time_{q}"]) for row in line] for q in (25, 50, 75))
    errors = [[m - a for a, m in zip(low, middle, strict=True)], [b - m for b, m in zip(high, middle, strict=True)]]
    panels[1].errorbar(x, middle, errors, linewidth=1.6, capsize=2, **style)
