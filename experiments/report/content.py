"""What a comparison shows, and the words for it."""

from dataclasses import dataclass

from experiments.arms import BASELINE, CONTROL, TRAIN_EVERYTHING
from experiments.report.document import Table
from experiments.report.outcome import Outcome
from experiments.report.statistics import CONFIDENCE, Spread, paired

HEADERS = (
    *("arm", "seeds", "test accuracy, %", f"minus {BASELINE}, points", "candidates"),
    *("scored", "trained", "steps", "FLOPs", "seconds"),
)
IN_BRIEF = (0, 2, 3, 5, 6, 8, 9)  # the columns that a terminal of 80 characters has room for
MEANING = {"candidates": "equal candidates seen", "trained": "equal examples trained", "flops": "equal FLOPs"}


@dataclass(frozen=True)
class Group:
    """The outcomes of one budget, by arm.

    Attributes:
        unit: what the budget counts.
        epochs: the budget.
        arms: the outcomes of each arm, in the order of the plan.
    """

    unit: str
    epochs: int
    arms: dict[str, list[Outcome]]

    @property
    def title(self) -> str:
        """What is equal in this group."""
        return f"{MEANING[self.unit].capitalize()}: {self.epochs} epochs' worth"

    def accuracies(self, arm: str) -> dict[int, float]:
        """Test accuracy in percent by seed; empty for an arm without outcomes."""
        return {outcome.seed: outcome.accuracy for outcome in self.arms.get(arm, [])}

    def mean(self, arm: str, key: str) -> float:
        """Mean of a number in the summaries of an arm."""
        return Spread.of([float(outcome.summary[key]) for outcome in self.arms[arm]]).mean

    def difference(self, arm: str, other: str) -> Spread | None:
        """The arm's accuracy minus the other's, or None for the other itself and where no seed has both."""
        return None if arm == other else paired(self.accuracies(arm), self.accuracies(other))


def groups(outcomes: list[Outcome]) -> list[Group]:
    """Sorts outcomes into groups, one for every budget."""
    found: dict[tuple[int, str], Group] = {}
    for outcome in outcomes:
        group = found.setdefault((outcome.epochs, outcome.unit), Group(outcome.unit, outcome.epochs, {}))
        group.arms.setdefault(outcome.arm, []).append(outcome)
    return list(found.values())


def table(group: Group) -> Table:
    """The numbers of a group: accuracy as mean and standard deviation over seeds, costs as means."""
    return Table(HEADERS, [_row(group, arm) for arm in group.arms])


def brief(full: Table) -> Table:
    """The columns of `table(...)` that fit a terminal, under shorter headers."""
    short = {HEADERS[2]: "accuracy, %", HEADERS[3]: f"minus {BASELINE}"}
    headers = tuple(short.get(full.headers[column], full.headers[column]) for column in IN_BRIEF)
    return Table(headers, [tuple(row[column] for column in IN_BRIEF) for row in full.rows])


def _row(group: Group, arm: str) -> tuple[str, ...]:
    accuracy = Spread.of(list(group.accuracies(arm).values()))
    difference = group.difference(arm, BASELINE)
    return (
        arm,
        str(accuracy.count),
        _plus_minus(accuracy, sign=""),
        "" if difference is None else _plus_minus(difference, sign="+"),
        f"{group.mean(arm, 'candidates_seen'):,.0f}",
        f"{group.mean(arm, 'examples_scored'):,.0f}",
        f"{group.mean(arm, 'examples_trained'):,.0f}",
        f"{group.mean(arm, 'optimizer_steps'):,.0f}",
        f"{group.mean(arm, 'flops'):.3g}",
        f"{group.mean(arm, 'seconds'):.1f}",
    )


def remarks(group: Group) -> str:
    """What has to be known to read the group's numbers."""
    charged = [arm for arm in group.arms if any("table_flops" in outcome.summary for outcome in group.arms[arm])]
    if not charged:
        return ""
    beyond = "." if group.unit == "flops" else ", and that is beyond the budget."
    return (
        f"{', '.join(charged)}: each run is charged for its table of irreducible losses or for its rater, in all "
        f"counts, FLOPs and seconds{beyond}"
    )


def _plus_minus(spread: Spread, sign: str) -> str:
    std = "" if spread.count < 2 else f" ± {spread.std:.2f}"
    return f"{spread.mean:{sign}.2f}{std}"


def statements(group: Group) -> list[str]:
    """One sentence for each arm against the baseline, and one against the control, which tells selection from luck.

    A difference is claimed only where the interval excludes zero.
    """
    against_control = [arm for arm in group.arms if arm not in TRAIN_EVERYTHING]
    pairs = [(arm, BASELINE) for arm in group.arms] + [(arm, CONTROL) for arm in against_control]
    found = [(arm, other, group.difference(arm, other)) for arm, other in pairs]
    return [_statement(group, arm, other, difference) for arm, other, difference in found if difference is not None]


def _statement(group: Group, arm: str, other: str, difference: Spread) -> str:
    low, high = difference.mean - difference.margin, difference.mean + difference.margin
    if difference.count < 2:
        verdict = f"{difference.mean:+.2f} points on one seed, which says nothing about the spread: no claim"
    elif low <= 0 <= high:
        verdict = f"no difference beyond the spread ({difference.mean:+.2f} points, interval {low:+.2f} to {high:+.2f})"
    else:
        word = "better" if difference.mean > 0 else "worse"
        verdict = f"{word} by {abs(difference.mean):.2f} points (interval {low:+.2f} to {high:+.2f})"
    costs = [
        f"{group.mean(arm, key) / group.mean(other, key):.2f} times the {name}"
        for key, name in (("flops", "FLOPs"), ("seconds", "seconds"))
    ]
    return f"{arm} against {other}: {verdict}; it took {' and '.join(costs)}."


HOW_TO_READ = (
    "Accuracy is measured once, after the last epoch, never the best of several. ± is the standard deviation over "
    f"seeds. Differences are taken seed by seed; their interval is Student's t at {CONFIDENCE:.0%}, for each arm by "
    "itself. FLOPs count scoring and training; seconds are wall-clock seconds of training, without evaluation, on the "
    "machine below. Neither budget holds the cost equal: with equal candidates a selecting arm trains on less, with "
    "equal examples trained it looks at more, so read accuracy beside FLOPs and seconds. Every arm decays its learning "
    "rate within its own budget. What an arm gains over uniform, but not over random_subset, it owes to the number of "
    "steps and not to its choice. Curves are no result: they cross while learning rates are high, and only their ends "
    "compare."
)
