"""AUROC over meta-steps, drawn."""

from pathlib import Path

from experiments.rater_study.setting import MEANING
from experiments.records import Row
from experiments.report.plots import COLOURS


def draw(rows: list[Row], file: Path) -> None:
    """Draws a panel for each data set and a thin line for each seed."""
    import matplotlib

    matplotlib.use("Agg")  # draws without a display
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["setting"] for row in rows))
    kinds = list(dict.fromkeys(name.partition("_")[0] for name in names))
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(4.5 * len(kinds), 3.4), squeeze=False, sharey=True)
    for panel, kind in zip(panels[0], kinds, strict=True):
        for place, name in enumerate(name for name in names if name.startswith(f"{kind}_")):
            for seed in sorted({row["seed"] for row in rows if row["setting"] == name}):
                own = [row for row in rows if (row["setting"], row["seed"]) == (name, seed)]
                steps, values = ([float(row[key]) for row in own] for key in ("meta_step", "auroc"))
                label = MEANING.get(name, name).partition(", ")[2] if seed == "0" else None
                panel.plot(steps, values, color=COLOURS[place % len(COLOURS)], linewidth=1, label=label)
        panel.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
        panel.set(title=kind, xlabel="meta-steps")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2, frameon=False, fontsize=7)
    panels[0][0].set_ylabel("AUROC, clean over corrupted")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
