"""What a comparison shows at one budget, and the words for it."""

import math

from experiments.arms import BASELINE, CONTROL, TRAIN_EVERYTHING
from experiments.report.document import Table
from experiments.report.group import Group, groups
from experiments.report.statistics import CONFIDENCE, Spread

__all__ = ["brief", "groups", "how_to_read", "remarks", "statements", "table"]

HEADERS = ("arm", "seeds", "test accuracy, %", f"minus {BASELINE}, points")
TESTED = {"worst_class_accuracy": "worst class, %", "calibration_error": "ECE, %"}  # mean over seeds, times 100
COSTS = {
    "candidates_seen": ("candidates", ",.0f"),
    "examples_scored": ("scored", ",.0f"),
    "examples_trained": ("trained", ",.0f"),
    "optimizer_steps": ("steps", ",.0f"),
    "flops": ("FLOPs", ".3g"),
    "reference_seconds": ("reference s", ".1f"),
    "seconds": ("seconds", ".1f"),
}
SHORT = {HEADERS[0]: "arm", HEADERS[2]: "accuracy, %", HEADERS[3]: f"minus {BASELINE}"}  # fit a terminal of 80 letters
SHORT |= {COSTS[key][0]: COSTS[key][0] for key in ("examples_scored", "examples_trained", "flops", "seconds")}


def table(group: Group) -> Table:
    """The numbers of a group: accuracy as mean and standard deviation over seeds, the rest as means.

    What older runs or other units do not say has no column.
    """
    tested, costs = ([key for key in keys if group.known(key)] for keys in (TESTED, COSTS))
    p_values = _against(group, BASELINE)
    headers = (*HEADERS, "p (Holm)", *(TESTED[key] for key in tested), *(COSTS[key][0] for key in costs))
    rows = []
    for arm in group.arms:
        accuracy, difference = Spread.of(list(group.accuracies(arm).values())), group.difference(arm, BASELINE)
        compared = "" if difference is None else plus_minus(difference, sign="+")
        cells = (arm, str(accuracy.count), plus_minus(accuracy), compared, p_text(p_values.get(arm, math.nan)))
        shown = (f"{100 * group.mean(arm, key):.2f}" for key in tested)
        rows.append((*cells, *shown, *(f"{group.mean(arm, key):{COSTS[key][1]}}" for key in costs)))
    return Table(headers, rows)


def brief(full: Table) -> Table:
    """The columns of `table(...)` that fit a terminal, under shorter headers."""
    columns = [column for column, header in enumerate(full.headers) if header in SHORT]
    headers = tuple(SHORT[full.headers[column]] for column in columns)
    return Table(headers, [tuple(row[column] for column in columns) for row in full.rows])


def plus_minus(spread: Spread, sign: str = "") -> str:
    """Mean and standard deviation, the latter where there is one."""
    std = "" if spread.count < 2 else f" ± {spread.std:.2f}"
    return f"{spread.mean:{sign}.2f}{std}"


def p_text(p_value: float) -> str:
    """Three digits, or a bound; empty where nothing was tested."""
    if math.isnan(p_value):
        return ""
    return "< .001" if p_value < 0.001 else f"{p_value:.3f}".removeprefix("0")


def _against(group: Group, other: str) -> dict[str, float]:
    """Corrected p-values of all arms against the baseline, or of all that select against the control."""
    apart = TRAIN_EVERYTHING if other == CONTROL else ()
    return group.p_values([arm for arm in group.arms if arm not in apart], other)


def remarks(group: Group) -> str:
    """What has to be known to read the group's numbers."""
    charged = [arm for arm in group.arms if any("table_flops" in outcome.summary for outcome in group.arms[arm])]
    if not charged:
        return ""
    beyond = "." if group.unit in ("flops", "reference") else ", and that is beyond the budget."
    return (
        f"{', '.join(charged)}: each run is charged for its table of irreducible losses or for its rater, in all "
        f"counts, FLOPs and seconds{beyond}"
    )


def statements(group: Group) -> list[str]:
    """One sentence for each arm against the baseline, and one against the control, which tells selection from luck.

    A difference is claimed only where it is significant after Holm's correction over the arms of the group.
    """
    found = []
    for other in (BASELINE, CONTROL):
        for arm, p_value in _against(group, other).items():
            difference = group.difference(arm, other)
            assert difference is not None  # it was tested
            found.append(_statement(group, arm, other, difference, p_value))
    return found


def _statement(group: Group, arm: str, other: str, difference: Spread, p_value: float) -> str:
    low, high = difference.mean - difference.margin, difference.mean + difference.margin
    found = f"interval {low:+.2f} to {high:+.2f}, p {_equals(p_value)}"
    if difference.count < 2:
        verdict = f"{difference.mean:+.2f} points on one seed, which says nothing about the spread: no claim"
    elif difference.tells_nothing:
        verdict = (
            f"{difference.mean:+.2f} points on each of {difference.count} seeds; that they agree so is a coincidence, "
            "which leaves no spread to test against: no claim"
        )
    elif low <= 0 <= high:
        verdict = f"no difference beyond the spread ({difference.mean:+.2f} points, {found})"
    elif p_value >= 1 - CONFIDENCE:
        verdict = f"no claim, for among so many arms chance does as much ({difference.mean:+.2f} points, {found})"
    else:
        word = "better" if difference.mean > 0 else "worse"
        verdict = f"{word} by {abs(difference.mean):.2f} points ({found})"
    costs = [
        f"{group.mean(arm, key) / group.mean(other, key):.2f} times the {name}"
        for key, name in (("flops", "FLOPs"), ("seconds", "seconds"))
        if group.unit != "reference" or key == "flops"  # under it, runs may share a machine: seconds say little
    ]
    return f"{arm} against {other}: {verdict}; it took {' and '.join(costs)}."


def _equals(p_value: float) -> str:
    text = p_text(p_value)
    return text if text.startswith("<") else f"= {text}"


HOW_TO_READ = (
    "Accuracy is measured once, after the last epoch, never the best of several. ± is the standard deviation over "
    f"seeds. Differences are taken seed by seed; their interval is Student's t at {CONFIDENCE:.0%}, for each arm by "
    "itself, while p is that of the paired t-test after Holm's correction over the arms: a difference is claimed where "
    f"it is below {1 - CONFIDENCE:.2g}. FLOPs count scoring and training; seconds are wall-clock seconds of training, "
    "without evaluation, on the machine below. {equality}Every arm decays its learning rate within its own budget. "
    "What an arm gains over uniform, but not over random_subset, it owes to the number of "
    "steps and not to its choice. Curves are no result: they cross while learning rates are high, and only their ends "
    "compare."
)
REFERENCE = (
    "Equal reference time: operations are counted, and each is charged what the calibration beside the results "
    "measured for it, loading, scoring, a draw of rows and what is made before training included."
)
UNEQUAL = (
    "Neither of candidates and examples trained holds the cost equal: with equal candidates a selecting arm trains on "
    "less, with equal examples trained it looks at more, so read accuracy beside FLOPs and seconds."
)


def how_to_read(units: set[str]) -> str:
    """The same for every report, but for what budgets hold equal."""
    said = [REFERENCE] if "reference" in units else []
    said += [UNEQUAL] if units & {"candidates", "trained"} else []
    return HOW_TO_READ.format(equality="".join(f"{sentence} " for sentence in said))
