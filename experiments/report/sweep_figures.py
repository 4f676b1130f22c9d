"""Error against budget, and what the budget went into."""

import math
import statistics
from pathlib import Path
from typing import Any

from experiments.arms import BASELINE
from experiments.report.document import Figure
from experiments.report.group import Group
from experiments.report.statistics import CONFIDENCE, Spread
from experiments.report.style import (
    COLOURS,
    Look,
    canvas,
    crowded,
    label_budgets,
    label_log,
    legend_of,
    looks,
    save,
    small_multiples,
)
from experiments.report.sweep import Sweep

BAND = 0.18
ROOM = 1.3  # for bands, above and below the means
PARTS = {
    "train": "training",
    "score": "scoring",
    "select": "selecting",
    "proxy": "training a proxy",
    "load": "loading",
    "rate": "rating",
    "before": "before training",
}
MEASURED = {"training_seconds": "training", "scoring_seconds": "scoring", "selection_seconds": "selecting"}


def pareto(sweep: Sweep, file: Path) -> list[Figure]:
    """Draws final error over budget, both log; where arms are many, also each by itself beside the baseline."""
    many = crowded(sweep.arms)
    figure, ((panel,),) = canvas(1, 1, (9, 6.5 if many else 5))
    look = looks(sweep.arms)
    for arm in sweep.arms:
        _line(panel, sweep, arm, look[arm], 0.0 if many and arm != BASELINE else BAND)
    _axes(panel, sweep)
    panel.set_xlabel("budget, epochs of uniform training")
    panel.set_ylabel("final test error, % (log scale)")
    legend_of(figure, panel, many)
    bands = f"bands show the {CONFIDENCE:.0%} confidence interval of the mean"
    found = [save(figure, file, f"{sweep.title}: final test error against budget, mean over seeds; {bands}.")]
    others = [arm for arm in sweep.arms if arm != BASELINE]
    if many:
        figure, panels = small_multiples(len(others), sharex=True, sharey=True)
        for panel, arm in zip(panels, others, strict=True):
            for shown in (BASELINE, arm):
                _line(panel, sweep, shown, look[shown] if shown == BASELINE else Look(COLOURS[0], "-", "o"), BAND)
            _axes(panel, sweep)
            panel.set_title(arm, fontsize=9)
        figure.supxlabel("budget, epochs of uniform training", fontsize=9)
        figure.supylabel("final test error, %", fontsize=9)
        caption = f"{sweep.title}: each arm beside {BASELINE} (dark); {bands}."
        found.append(save(figure, file.with_stem(f"{file.stem}-apart"), caption))
    return found


def costs(group: Group, file: Path) -> Figure | None:
    """Draws where the time of a run went, a bar for each arm; None where nobody measured it."""
    parts = {arm: _parts(group, arm) for arm in group.arms}
    names = [name for name in PARTS.values() if any(part.get(name) for part in parts.values())]
    if not names:
        return None
    figure, ((panel,),) = canvas(1, 1, (9, 1.3 + 0.34 * len(parts)))
    start = dict.fromkeys(parts, 0.0)
    for name, colour in zip(names, COLOURS, strict=False):
        widths = [part.get(name, 0.0) for part in parts.values()]
        panel.barh(list(parts), widths, left=list(start.values()), color=colour, label=name, height=0.7)
        start = {arm: start[arm] + width for arm, width in zip(parts, widths, strict=True)}
    panel.invert_yaxis()
    reference = group.known("reference_breakdown")
    panel.set_xlabel("seconds of reference time" if reference else "seconds of wall-clock time")
    panel.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return save(figure, file, f"{group.title}: what the time of a run went into, mean over seeds.")


def _parts(group: Group, arm: str) -> dict[str, float]:
    """Mean seconds by the name of what took them."""
    summaries = [outcome.summary for outcome in group.arms[arm]]
    if group.known("reference_breakdown"):
        found = {key: [summary["reference_breakdown"].get(key, 0.0) for summary in summaries] for key in PARTS}
        return {PARTS[key]: statistics.fmean(values) for key, values in found.items()}
    if all(key in summary for key in MEASURED for summary in summaries):
        return {name: group.mean(arm, key) for key, name in MEASURED.items()}
    return {PARTS["train"]: group.mean(arm, "seconds")} if arm == BASELINE else {}  # which does nothing else


def _axes(panel: Any, sweep: Sweep) -> None:
    means = [
        math.exp(Spread.of(list(group.log_errors(arm).values())).mean) for arm in sweep.arms for group in sweep.of(arm)
    ]
    # the bands of two seeds can be wider than all there is to see
    panel.set(xscale="log", yscale="log", ylim=(min(means) / ROOM, max(means) * ROOM))
    label_budgets(panel.xaxis, [group.epochs for group in sweep.groups])
    label_log(panel.yaxis)
    panel.grid(which="both", alpha=0.25)


def _line(panel: Any, sweep: Sweep, arm: str, look: Look, band: float) -> None:
    """One arm: geometric means, for that is what is fitted, and Student's interval of the log error."""
    own = sweep.of(arm)
    spreads = [Spread.of(list(group.log_errors(arm).values())) for group in own]
    x = [group.spent(arm) for group in own]
    kept = {"color": look.color, "linestyle": look.linestyle, "marker": look.marker}
    panel.plot(x, [math.exp(spread.mean) for spread in spreads], label=arm, linewidth=1.8, markersize=4, **kept)
    margins = [0.0 if math.isinf(spread.margin) else spread.margin for spread in spreads]
    ends = [
        [math.exp(spread.mean + sign * margin) for spread, margin in zip(spreads, margins, strict=True)]
        for sign in (-1, 1)
    ]
    panel.fill_between(x, *ends, color=look.color, alpha=band, linewidth=0)
