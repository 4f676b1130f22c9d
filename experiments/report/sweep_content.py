"""What a comparison shows over several budgets, and the words for it."""

import math
from collections.abc import Callable

from experiments.arms import BASELINE
from experiments.records import Row
from experiments.report.content import plus_minus
from experiments.report.document import Section, Table
from experiments.report.group import Group
from experiments.report.multiplier import Multiplier
from experiments.report.non_inferiority import MARGIN, POWER, NonInferiority
from experiments.report.statistics import CONFIDENCE, Spread
from experiments.report.sweep import TARGETS, Reached, Sweep

LEVEL = 1 - CONFIDENCE


def errors(sweep: Sweep) -> Table:
    """Final error by arm and budget; a star where it differs from the baseline's after Holm's correction."""
    p_values = {group.epochs: group.p_values(list(group.arms), BASELINE) for group in sweep.groups}

    def cell(arm: str, group: Group) -> str:
        spread = Spread.of([100 - accuracy for accuracy in group.accuracies(arm).values()])
        return plus_minus(spread) + ("*" if p_values[group.epochs].get(arm, 1.0) < LEVEL else "")

    return _by_budget(sweep, sweep.arms, cell)


def multipliers(sweep: Sweep, found: dict[tuple[str, int], Multiplier]) -> Section:
    """The equivalent-budget multipliers, or why there are none."""
    title = f"{sweep.title}: equivalent budgets"
    if reason := sweep.no_multiplier():
        return Section(title, reason)
    text = (
        f"How many times its budget {BASELINE} training would need for the same error, read off a monotone curve "
        f"through its {len(sweep.of(BASELINE))} budgets, each a fully decayed run. In brackets the {CONFIDENCE:.0%} "
        "interval, of a bootstrap over seeds and of the paired difference, whichever is wider. Beyond the measured "
        "budgets nothing is extrapolated: > and < are bounds, and a multiplier of m at budget b shows only where "
        f"{BASELINE} has been trained for m times b. {_seeds(sweep)}"
    )
    others = [arm for arm in sweep.arms if arm != BASELINE]

    def cell(arm: str, group: Group) -> str:
        return str(found[arm, group.epochs]) if (arm, group.epochs) in found else ""

    return Section(title, text, _by_budget(sweep, others, cell))


def _seeds(sweep: Sweep) -> str:
    """Those that enter where a curve of uniform training is needed."""
    return f"Seeds that have all budgets of {BASELINE}, and no others: {', '.join(map(str, sweep.curve(BASELINE)[1]))}."


def speed_ups(sweep: Sweep) -> Section:
    """Budgets that reach a target, by arm."""
    targets = {target: sweep.reached(target) for target in TARGETS}
    final = sweep.final_error()
    title = f"{sweep.title}: budget to a target error"
    if final is None or not any(targets.values()):
        return Section(title, f"Not reported: it takes {BASELINE} and several budgets with a seed in common.")
    text = (
        f"Targets are multiples of the error of {BASELINE} at its largest budget. Every budget is a fully decayed run "
        "of its own, so no target is reached in passing: an arm's budget, in epochs of uniform training, is read off "
        f"the curve through its own ends. In brackets the speed-up, the budget of {BASELINE} over the arm's; it "
        f"compares means and claims no significance. {_seeds(sweep)}"
    )
    headers = ("arm", *(f"{target:g}x: {target * final:.2f}%" for target in TARGETS))
    arms = [arm for arm in sweep.arms if any(arm in reached for reached in targets.values())]
    rows = [(arm, *(_target(targets[target], arm) for target in TARGETS)) for arm in arms]
    return Section(title, text, Table(headers, rows))


def _target(reached: dict[str, Reached], arm: str) -> str:
    """Budget and speed-up of an arm, either as a bound where it was not measured."""
    if arm not in reached:
        return ""
    (low, high), (least, most) = reached[arm].bounds, reached[BASELINE].bounds if BASELINE in reached else (0, math.inf)
    budget = f"{low:.1f}" if low == high else f"> {low:.1f}" if math.isinf(high) else f"< {high:.1f}"
    if arm == BASELINE:
        return budget
    slowest, fastest = least / high, (most / low if low else math.inf)
    if slowest == fastest:
        return f"{budget} ({slowest:.2f}x)"
    bounds = [f"> {slowest:.2f}x" if slowest else "", f"< {fastest:.2f}x" if math.isfinite(fastest) else ""]
    return f"{budget} ({', '.join(filter(None, bounds)) or '?'})"


def non_inferiority(sweep: Sweep) -> Section:
    """Whether arms lose more than the margin anywhere."""
    text = (
        f"Whether an arm is at most {MARGIN:g} points of accuracy worse than {BASELINE}, by a paired one-sided t-test "
        f"at {LEVEL:.2g} for each cell by itself, with the lower bound of the difference. Where it is open: how many "
        f"seeds would settle it with a power of {POWER:.0%}, if mean and deviation stay what they are; - where none "
        "would."
    )
    others = [arm for arm in sweep.arms if arm != BASELINE]
    return Section(f"{sweep.title}: not worse than {BASELINE}?", text, _by_budget(sweep, others, _non_inferior))


def _non_inferior(arm: str, group: Group) -> str:
    difference = group.difference(arm, BASELINE)
    if difference is None:
        return ""
    test = NonInferiority(difference)
    if difference.count < 2:
        return "open (one seed)"
    if test.verdict == "open":
        return f"open ({test.bound:+.2f}; {test.seeds_needed() or '-'} seeds)"
    return f"{test.verdict} ({test.bound:+.2f})"


def claims(group: Group, found: dict[tuple[str, int], Multiplier]) -> list[Row]:
    """One row for each arm of a group: every number of the tables above, unrounded; empty where there is none."""
    p_values = group.p_values(list(group.arms), BASELINE)
    rows = []
    for arm in group.arms:
        accuracy, difference = Spread.of(list(group.accuracies(arm).values())), group.difference(arm, BASELINE)
        values: dict[str, object] = {"accuracy": accuracy.mean, "std": accuracy.std, "seeds": accuracy.count}
        values["spent_epochs"] = group.spent(arm)
        for name in ("difference", "low", "high", "p", "p_holm", "lower_bound", "non_inferior_p"):
            values[name] = ""
        if difference is not None:
            test, margin = NonInferiority(difference), difference.margin
            ends = {"low": difference.mean - margin, "high": difference.mean + margin}
            values |= {"difference": difference.mean, **ends, "p": difference.p_value, "p_holm": p_values[arm]}
            values |= {"lower_bound": test.bound, "non_inferior_p": test.p_value}
        times = found.get((arm, group.epochs))
        for name in ("value", "low", "high", "seeds"):
            values[f"multiplier_{name}"] = "" if times is None else getattr(times, name)
        place = {"unit": group.unit, "epochs": str(group.epochs), "arm": arm}
        rows.append({**place, **{name: str(value) for name, value in values.items()}})
    return rows


def _by_budget(sweep: Sweep, arms: list[str], cell: Callable[[str, Group], str]) -> Table:
    headers = ("arm", *(f"{group.epochs} epoch{'s' * (group.epochs > 1)}" for group in sweep.groups))
    rows = [(arm, *(cell(arm, group) if arm in group.arms else "" for group in sweep.groups)) for arm in arms]
    return Table(headers, rows)
