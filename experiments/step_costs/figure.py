"""The figure of scaling."""

from pathlib import Path
from typing import Any

from experiments.records import Row
from experiments.report.plots import COLOURS


def draw(sizes: list[Row], history: list[Row], ledger: list[Row], file: Path) -> None:
    """Against the batch, the network, the history, and the ledger."""
    import matplotlib

    matplotlib.use("Agg")  # draws without a display
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "litselect", "font.size": 9}):
        figure, panels = pyplot.subplots(2, 2, figsize=(8.4, 6), layout="constrained")
        _costs(panels[0, 0], [row for row in sizes if row["series"] == "N"], "N, candidates in a batch (small MLP)")
        _costs(panels[0, 1], [row for row in sizes if row["series"] == "parameters"], "parameters (MLPs)", "parameters")
        _line(panels[1, 0], history, "size", [("ms", 1.0, "a choice by LossPercentile")])
        panels[1, 0].set(xlabel="history, losses", ylabel="ms", yscale="log")
        columns = [("update_us", 1e-3, "update, a batch"), ("look_up_us", 1e-3, "look-up, a batch")]
        _line(panels[1, 1], ledger, "examples", [*columns, ("ranks_s", 1e3, "ranks, an epoch")])
        panels[1, 1].set(xlabel="examples in the ledger", ylabel="ms", yscale="log")
        for panel in panels.flat:
            panel.set_xscale("log")
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
            if panel.get_yscale() == "linear":
                panel.set_ylim(bottom=0)
            if panel.get_legend_handles_labels()[0]:
                panel.legend(frameon=False, fontsize=8)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)


def _costs(panel: Any, rows: list[Row], label: str, x: str = "size") -> None:
    """Measured costs, and floors dashed."""
    for option, colour in zip(dict.fromkeys(row["option"] for row in rows), COLOURS, strict=False):
        own = [row for row in rows if row["option"] == option]
        places = [float(row[x]) for row in own]
        middle = [float(row["measured"]) for row in own]
        low = [m - float(row["measured_25"]) for m, row in zip(middle, own, strict=True)]
        high = [float(row["measured_75"]) - m for m, row in zip(middle, own, strict=True)]
        panel.errorbar(places, middle, [low, high], color=colour, marker="o", markersize=4, capsize=2, label=option)
        panel.plot(places, [float(row["floor"]) for row in own], color=colour, linestyle="--", linewidth=1)
    panel.axhline(1, color="#222222", linewidth=0.8)
    panel.set(xlabel=label, ylabel="plain steps of N (dashed: floor)")


def _line(panel: Any, rows: list[Row], x: str, columns: list[tuple[str, float, str]]) -> None:
    for (column, factor, label), colour in zip(columns, COLOURS, strict=False):
        values = [factor * float(row[column]) for row in rows]
        panel.plot([int(row[x]) for row in rows], values, color=colour, marker="o", markersize=4, label=label)
