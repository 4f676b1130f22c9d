"""The first lines of the page about what ratings buy: who won."""

from statistics import fmean

from experiments.rater_study.arms import MEANING, TWICE
from experiments.rater_study.setting import MEANING as SETTINGS
from experiments.records import Row

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


def verdict(found: dict[str, dict[str, dict[int, Row]]]) -> list[str]:
    """A sentence for each setting: the best arm without a rater beside the best with one."""
    lines = [line for name, results in found.items() if (line := _line(name, results))]
    return ["\n".join(f"- {line}" for line in sorted(lines, key=lambda line: "cheap" not in line))] if lines else []


def _line(name: str, results: dict[str, dict[int, Row]]) -> str:
    means = {
        arm: 100 * fmean(float(row["test_accuracy"]) for row in rows.values())
        for arm, rows in results.items()
        if not arm.endswith(TWICE)
    }
    cheap, rated = ({arm: means[arm] for arm in arms if arm in means} for arms in (CHEAP, RATERS))
    if not cheap or not rated:
        return ""
    first, second = max(cheap, key=lambda arm: cheap[arm]), max(rated, key=lambda arm: rated[arm])
    who = "**a cheap baseline wins**" if cheap[first] >= rated[second] else "**a rater wins**"
    return (
        f"{SETTINGS.get(name, name)}: {who}. Best without a rater: {MEANING[first]}, {cheap[first]:.1f} %; "
        f"best with one: {MEANING[second]}, {rated[second]:.1f} %."
    )
