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
    spoilt = list(dict.fromkeys(name.partition("_")[2] for name in names))  # a colour for each, in both panels
    kinds = list(dict.fromkeys(name.partition("_")[0] for name in names))
    figure, panels = pyplot.subplots(
        1, len(kinds), figsize=(4.5 * len(kinds), 3.4), squeeze=False, sharey=True, layout="constrained"
    )
    for panel, kind in zip(panels[0], kinds, strict=True):
        for name in (name for name in names if name.startswith(f"{kind}_")):
            colour = COLOURS[spoilt.index(name.partition("_")[2]) % len(COLOURS)]
            for seed in sorted({row["seed"] for row in rows if row["setting"] == name}):
                own = [row for row in rows if (row["setting"], row["seed"]) == (name, seed)]
                steps, values = ([float(row[key]) for row in own] for key in ("meta_step", "auroc"))
                label = MEANING.get(name, name).partition(", ")[2] if seed == "0" else None
                panel.plot(steps, values, color=colour, linewidth=1, label=label)
        panel.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
        panel.set(title=kind, xlabel="meta-steps")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("AUROC, clean over corrupted")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = {line.get_label(): line for panel in panels[0] for line in panel.get_lines()}
    named = {str(label): line for label, line in lines.items() if not str(label).startswith("_")}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
