"""What was trained on, over training: how much, how hard, and of which class."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.callbacks.trained_rows import QUANTILES
from experiments.report.document import Figure
from experiments.report.group import Group
from experiments.report.outcome import Outcome
from experiments.report.style import COLOURS, INK, canvas, crowded, legend_of, looks, save, small_multiples

Array = Any
FEW_EPOCHS = 12  # whose ends are marked
FLOOR = 1e-3  # of losses that are shown, since zero has no place on a log axis
LEAST_REACH = 0.5  # of the colours of class shares, in powers of two: chance is not to look like a choice
ENDS = tuple(f"{round(100 * at):02}" for at in (QUANTILES[0], QUANTILES[2], QUANTILES[-1]))


def trained_figures(group: Group, folder: Path) -> list[Figure]:
    """Draws what `trained.csv` of the runs says; nothing where no run has one."""
    arms = {arm: found for arm, outcomes in group.arms.items() if (found := _recorded(outcomes))}
    if not arms:
        return []
    name = f"{group.epochs}-{group.unit}.png"
    return [
        _kept(group, arms, folder / f"kept-{name}"),
        _losses(group, arms, folder / f"losses-{name}"),
        _classes(group, arms, folder / f"classes-{name}"),
    ]


def _recorded(outcomes: list[Outcome]) -> dict[str, Array]:
    """Columns by name, means over seeds at each epoch that all have; NaN where nothing is known."""
    runs = [run for outcome in outcomes if (run := outcome.trained())]
    if not runs:
        return {}
    epochs = min(len(run) for run in runs)
    columns = [key for key in runs[0][0] if key != "seen_losses_from"]
    values = {key: [[float(row[key] or "nan") for row in run[:epochs]] for run in runs] for key in columns}
    return {key: np.array(value).mean(0) for key, value in values.items()}


def _few(arms: dict[str, dict[str, Array]]) -> bool:
    return max(len(found["seen"]) for found in arms.values()) <= FEW_EPOCHS


def _progress(found: dict[str, Array]) -> Array:
    """The share of the run that is over at the end of each epoch, by candidates: arms differ in their epochs."""
    return found["seen"].cumsum() / found["seen"].sum()


def _kept(group: Group, arms: dict[str, dict[str, Array]], file: Path) -> Figure:
    many, few = crowded(list(arms)), _few(arms)
    figure, ((panel,),) = canvas(1, 1, (9, 5 if many else 3.6))
    for arm, look in looks(list(group.arms)).items():
        if arm in arms:
            found = arms[arm]
            marker = look.marker if few else None
            style = {"color": look.color, "linestyle": look.linestyle, "marker": marker, "markersize": 3}
            panel.plot(_progress(found), found["trained"] / found["seen"], label=arm, **style)
    panel.set(xlabel="share of the run", ylabel="kept fraction", ylim=(0, 1.05), xlim=(0, 1.02))
    panel.grid(alpha=0.25)
    legend_of(figure, panel, many)
    return save(figure, file, f"{group.title}: trained rows over candidates, by epoch, mean over seeds.")


def _losses(group: Group, arms: dict[str, dict[str, Array]], file: Path) -> Figure:
    figure, panels = small_multiples(len(arms), sharex=True, sharey=True)
    few = _few(arms)
    for panel, (arm, found) in zip(panels, arms.items(), strict=True):
        for part, colour, label in (("seen", INK, "candidates"), ("trained", COLOURS[1], "trained")):
            low, middle, high = (found[f"{part}_loss_p{end}"].clip(FLOOR) for end in ENDS)
            marker = "o" if few else None  # one epoch alone has no line
            panel.plot(_progress(found), middle, color=colour, linewidth=1.6, label=label, marker=marker, markersize=3)
            panel.fill_between(_progress(found), low, high, color=colour, alpha=0.15, linewidth=0)
        panel.set_title(arm, fontsize=9)
        panel.set_yscale("log")
        panel.grid(alpha=0.25)
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.supxlabel("share of the run", fontsize=9)
    figure.supylabel("loss", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    caption = (
        f"{group.title}: losses of candidates and of trained rows, by epoch: median, and band from the 5th to the 95th "
        "percentile, means over seeds. Candidates' are known where they were scored, remembered or all trained. "
        f"Losses below {FLOOR:g} are drawn as {FLOOR:g}."
    )
    return save(figure, file, caption)


def _classes(group: Group, arms: dict[str, dict[str, Array]], file: Path) -> Figure:
    """A heat map: the share of each class among trained rows, times the number of classes."""
    classes = sorted({key for found in arms.values() for key in found if key.startswith("class_")}, key=_number)
    counts = np.array([[found[key].sum() if key in found else 0.0 for key in classes] for found in arms.values()])
    shares = counts / counts.sum(1, keepdims=True) * len(classes)
    reach = max(LEAST_REACH, float(np.abs(np.log2(shares.clip(1 / 16))).max()))
    figure, ((panel,),) = canvas(1, 1, (9, 1.6 + 0.34 * len(arms)))
    shown = panel.imshow(np.log2(shares.clip(1 / 16)), cmap="PuOr_r", vmin=-reach, vmax=reach, aspect="auto")
    panel.set_yticks(range(len(arms)), list(arms))
    panel.set_xlabel("class")
    panel.spines[:].set_visible(False)
    if len(classes) <= 20:
        panel.set_xticks(range(len(classes)))
        for (row, column), share in np.ndenumerate(shares):
            dark = abs(np.log2(max(share, 1 / 16))) > 0.6 * reach
            ink = "white" if dark else INK
            panel.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color=ink)
    ticks = [-reach, 0, reach]
    figure.colorbar(shown, ax=panel, ticks=ticks, format=lambda value, _: f"{2**value:.2g}", shrink=0.9)
    return save(figure, file, f"{group.title}: share of each class among trained rows, 1 where all are alike.")


def _number(column: str) -> int:
    return int(column.removeprefix("class_"))
