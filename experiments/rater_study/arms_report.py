"""The tables of what ratings buy."""

from pathlib import Path

from omegaconf import DictConfig

from experiments import records
from experiments.files import read_json, write_text
from experiments.rater_study.arms import ARMS, MEANING, TWICE
from experiments.rater_study.setting import MEANING as SETTINGS
from experiments.rater_study.setting import Setting
from experiments.rater_study.verdict import verdict
from experiments.report.document import Table
from experiments.report.markdown import to_table
from experiments.report.statistics import Spread, paired

HEADERS = ("arm", "seeds", "test accuracy, %", "beside plain, points", "made before, % of the budget", "steps")
KEPT = ("test_accuracy", "test_loss", "flops", "examples_scored", "examples_trained", "optimizer_steps", "cpu_seconds")

Results = dict[str, dict[int, records.Row]]  # by arm and seed


def write_report(settings: list[Setting], config: DictConfig) -> None:
    """Writes `arms.csv` and `arms.md`, of what is done."""
    found = {setting.name: _results(setting, config.seeds) for setting in settings}
    rows = [row for results in found.values() for seeds in results.values() for row in seeds.values()]
    if not rows:
        return
    folder = Path(config.docs)
    records.write(folder / "arms.csv", rows)
    write_text(folder / "arms.md", _page({name: results for name, results in found.items() if results}))


def _results(setting: Setting, seeds: int) -> Results:
    results: Results = {}
    for arm in ARMS:
        for seed in range(seeds):
            file = setting.folder / f"{arm}-seed{seed}" / "summary.json"
            if file.exists():
                summary = read_json(file)
                known = {"setting": setting.name, "arm": arm, "seed": str(seed)}
                counted = {"made_before_flops": str(summary.get("table_flops", 0))}
                results.setdefault(arm, {})[seed] = {**known, **{key: str(summary[key]) for key in KEPT}, **counted}
    return results


def _page(found: dict[str, Results]) -> str:
    parts = [
        "# What ratings buy",
        *verdict(found),
        "Every arm has the same budget of FLOPs: scoring, training, and what had to be made before (a rater, a model "
        "of the held-out rows) count, unless an arm says otherwise; the learning rate decays in each arm's own budget. "
        "Selecting arms train half of every batch. Held-out rows are clean unless said otherwise, and neither trained "
        "nor reported on (digits: 100 rows, few: 20; images: 1000). Budgets are epochs of plain training: 20 on "
        "digits, 6 on images. [What ratings find](auroc.md) is about the same raters.",
    ]
    for name, results in found.items():
        parts += [f"## {SETTINGS.get(name, name)}", _table(results, "uniform", twice=False)]
        if any(arm.endswith(TWICE) for arm in results):
            parts += [
                "With twice the budget, of which the rater takes its part:",
                _table(results, "uniform_twice", True),
            ]
    parts += [
        "Seeds decide models, order, raters and draws; wrong labels, spoilt images and held-out rows are one draw, the "
        "same for all. The best of several arms is named after the fact, and close races on digits were given more "
        "seeds, so small leads mean little. Equal FLOPs are not equal steps: a selecting arm makes more and smaller "
        "ones, for which half of every batch by chance is the control.",
        "Mean and standard deviation over seeds; differences to plain training of the same seed with the half-width of "
        "their 95 % confidence interval (Student's t). Made by `python -m experiments.rater_arms root=<folder of "
        "images>` (`seeds=` where there are more than 3); all values in [arms.csv](arms.csv), all settings in "
        "`experiments/conf/rater_study.yaml` and `experiments/rater_study/arms.py`.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(results: Results, baseline: str, twice: bool) -> str:
    plain = accuracies(results.get(baseline, {}))
    lines: list[tuple[str, ...]] = []
    for arm, rows in results.items():
        if arm.endswith(TWICE) != twice:
            continue
        own, flops = accuracies(rows), [float(row["flops"]) for row in rows.values()]
        before = [float(row["made_before_flops"]) for row in rows.values()]
        beside = paired(own, plain) if arm != baseline else None
        spread = Spread.of(list(own.values()))
        lines.append(
            (
                MEANING[arm],
                str(spread.count),
                f"{spread.mean:.1f} ± {spread.std:.1f}",
                f"{beside.mean:+.1f} ± {beside.margin:.1f}" if beside else "",
                f"{100 * sum(before) / sum(flops):.0f}",
                f"{sum(float(row['optimizer_steps']) for row in rows.values()) / len(rows):,.0f}",
            )
        )
    return to_table(Table(HEADERS, lines))


def accuracies(rows: dict[int, records.Row]) -> dict[int, float]:
    """Percent, by seed."""
    return {seed: 100 * float(row["test_accuracy"]) for seed, row in rows.items()}
