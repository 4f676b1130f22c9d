"""The first lines of the page about what ratings buy: who leads, and whether the seeds show it."""

from statistics import fmean

from experiments.rater_study.arms import MEANING
from experiments.rater_study.setting import MEANING as SETTINGS
from experiments.records import Row
from experiments.report.statistics import paired

CHEAP = (
    "uniform",
    "uniform_with_heldout",
    "random_subset",
    "selective_backprop",
    "reducible_loss",
    "heldout_model_hard",
    "heldout_model_drawn",
    "heldout_model_within_class",
)
RATERS = ("datarater_drawn", "datarater_within_class", "datarater_hard", "datarater_online")
CHEAP_TWICE = ("uniform_twice", "heldout_model_drawn_twice")
RATERS_TWICE = ("datarater_online_twice", "datarater_counted_twice")
FAMILIES = (("", CHEAP, RATERS), (", twice the budget, all counted", CHEAP_TWICE, RATERS_TWICE))

Results = dict[str, dict[int, Row]]  # by arm and seed


def verdict(found: dict[str, Results]) -> list[str]:
    """How often a rater leads, then a sentence for each setting, those first in which none does."""
    lines = [
        line
        for name, results in found.items()
        for where, cheap, raters in FAMILIES
        if (line := _line(SETTINGS.get(name, name) + where, results, cheap, raters))
    ]
    if not lines:
        return []
    behind = sum(not line[0] for line in lines)
    shown = sum(line[0] and line[1] for line in lines)
    first = (
        f"**Something cheaper than a rater does at least as well in {behind} of {len(lines)} comparisons**; in {shown} "
        "the lead of a rater is more than the seeds' chance (paired t, 95 %)."
    )
    return [first, "\n".join(f"- {text}" for *_, text in sorted(lines, key=lambda line: line[0]))]


def _line(
    name: str, results: Results, cheap: tuple[str, ...], raters: tuple[str, ...]
) -> tuple[bool, bool, str] | None:
    """Whether a rater leads, whether the seeds show who leads, and the sentence."""
    values = {
        arm: {seed: 100 * float(row["test_accuracy"]) for seed, row in rows.items()} for arm, rows in results.items()
    }
    means = {arm: fmean(own.values()) for arm, own in values.items()}
    known = [[arm for arm in arms if arm in means] for arms in (cheap, raters)]
    if not all(known):
        return None
    first, second = (max(arms, key=lambda arm: means[arm]) for arms in known)
    beside = paired(values[second], values[first])
    shown = beside is not None and abs(beside.mean) > beside.margin
    leads = means[second] > means[first]
    who = "a rater leads" if leads else "**a cheap baseline wins**"
    points = "" if beside is None else f"{beside.mean:+.1f} ± {beside.margin:.1f} points"
    text = (
        f"{name}: {who}. Best without a rater: {MEANING[first]}, {means[first]:.1f} %; best with one: "
        f"{MEANING[second]}, {means[second]:.1f} % ({points}{'' if shown else ', which may be chance'})."
    )
    return leads, shown, text
