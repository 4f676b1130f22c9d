"""Reports over several budgets, from outcomes whose truth is known."""

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.callbacks.trained_rows import QUANTILES
from experiments.report import write_report
from experiments.report.content import groups, how_to_read, statements, table
from experiments.report.outcome import Outcome
from experiments.report.sweep import Sweep, sweeps
from experiments.report.sweep_content import errors, multipliers, non_inferiority, speed_ups

BUDGETS = (3, 5, 10, 20, 30)
ARMS = {"uniform": 1.0, "twice": 2.0, "half": 0.5}  # how many times its budget each is worth
COSTS = ("seconds", "candidates_seen", "examples_scored", "examples_trained", "optimizer_steps", "flops")


def outcome(arm: str, epochs: int, seed: int, times: float, folder: Path = Path(), **more: Any) -> Outcome:
    error = (5 + 60 * (times * epochs) ** -0.8) * (1 + 0.01 * seed)
    summary = {"test_accuracy": 1 - error / 100, "test_examples": 10_000, **dict.fromkeys(COSTS, 10), **more}
    return Outcome(arm, more.get("unit", "flops"), epochs, seed, folder, summary)


def sweep(budgets: tuple[int, ...] = BUDGETS, seeds: int = 3, **more: Any) -> Sweep:
    found = [
        outcome(arm, epochs, seed, times, **more)
        for seed in range(seeds)
        for epochs in budgets
        for arm, times in ARMS.items()
    ]
    return sweeps(groups(found))[0]


def cells(found: Any, arm: str) -> tuple[str, ...]:
    (row,) = [row for row in found.table.rows if row[0] == arm]
    return row[1:]


def test_one_budget_is_no_sweep() -> None:
    assert sweeps(groups([outcome("uniform", 3, 0, 1.0)])) == []
    assert [group.epochs for group in sweep(budgets=(30, 3, 5)).groups] == [3, 5, 30]


def test_multipliers_are_the_truth_within_the_budgets() -> None:
    found = sweep().multipliers()
    assert found.keys() == {(arm, epochs) for arm in ("twice", "half") for epochs in BUDGETS}
    for arm, epochs in (("twice", 3), ("twice", 5), ("twice", 10), ("half", 10), ("half", 20), ("half", 30)):
        assert found[arm, epochs].value == pytest.approx(ARMS[arm], rel=0.02)
    assert str(found["twice", 30]).startswith("> 1.00")
    assert str(found["half", 3]).startswith("< 1.00")
    assert cells(multipliers(sweep(), found), "twice")[0] == str(found["twice", 3])


def test_what_a_small_network_spends_is_not_rounded() -> None:
    spent = {"unit": "reference", "reference_epoch_seconds": 0.00314, "reference_seconds": 0.0314}
    (group,) = groups([outcome("uniform", 10, seed, 1.0, **spent) for seed in range(3)])
    assert group.spent("uniform") == pytest.approx(10)


def test_multipliers_count_what_was_spent() -> None:
    """Runs that overshoot their reference time by a tenth are worth a tenth less."""
    spent = [
        outcome(arm, epochs, 0, times, unit="reference", reference_epoch_seconds=2.0, reference_seconds=2.0 * over)
        for epochs in BUDGETS
        for arm, times in ARMS.items()
        for over in [epochs * (1.1 if arm == "twice" else 1.0)]
    ]
    (found,) = sweeps(groups(spent))
    assert found.multipliers()["twice", 5].value == pytest.approx(2 / 1.1, rel=0.02)


def test_budgets_that_cost_the_same_are_one() -> None:
    """What is made before training may leave nothing of short budgets."""
    spent = {"unit": "reference", "reference_epoch_seconds": 1.0}
    found = [
        outcome("late", epochs, 0, 1.0, **spent, reference_seconds=max(epochs, cost))
        for epochs, cost in ((3, 9), (5, 9))
    ]
    found += [outcome("late", 20, 0, 1.0, **spent, reference_seconds=20)]
    budgets, _, log_errors = sweeps(groups(found))[0].curve("late")
    assert budgets.tolist() == [9, 20]
    assert log_errors.shape == (1, 2)


def test_four_budgets_have_no_multiplier_and_say_why() -> None:
    few = sweep(budgets=BUDGETS[1:])
    assert few.multipliers() == {}
    section = multipliers(few, few.multipliers())
    assert section.table is None
    assert "5 budgets or more, and there are 4" in section.text


def test_errors_that_rise_are_no_measure_of_budgets() -> None:
    rising = [outcome(arm, epochs, 0, 1.0 / epochs**2) for epochs in BUDGETS for arm in ARMS]
    (found,) = sweeps(groups(rising))
    assert found.multipliers() == {}
    assert "rises with its budget" in found.no_multiplier()


def test_unfinished_seeds_are_left_out() -> None:
    whole = [outcome(arm, epochs, 0, times) for epochs in BUDGETS for arm, times in ARMS.items()]
    begun = [outcome("uniform", 3, 1, 0.1), outcome("twice", 3, 1, 9.0)]
    (found,) = sweeps(groups(whole + begun))
    assert found.multipliers()["twice", 3].seeds == 1
    assert found.multipliers()["twice", 3].value == pytest.approx(2.0, rel=0.02)
    (none,) = sweeps(groups([outcome("uniform", epochs, epochs, 1.0) for epochs in BUDGETS]))
    assert "no seed" in none.no_multiplier()


def test_speed_ups_to_targets() -> None:
    found = speed_ups(sweep())
    final = 5 + 60 * 30**-0.8
    for cell, target in zip(cells(found, "twice"), (1.1, 1.2, 1.4), strict=True):
        budget = ((target * final - 5) / 60) ** (-1 / 0.8) / 2
        shown, speed_up = re.fullmatch(r"([\d.]+) \(([\d.]+)x\)", cell).groups()  # type: ignore[union-attr]
        assert float(shown) == pytest.approx(budget, rel=0.03)
        assert float(speed_up) == pytest.approx(2, rel=0.03)
    assert cells(found, "half")[0].startswith("> 30.0 (< 0.")  # never got there
    assert float(cells(found, "uniform")[0]) < 30


def test_only_seeds_with_all_budgets_of_uniform_enter() -> None:
    whole = [outcome(arm, epochs, 0, times) for epochs in BUDGETS for arm, times in ARMS.items()]
    begun = [outcome("uniform", 30, 1, 0.1), *(outcome("twice", epochs, 1, 9.0) for epochs in BUDGETS)]
    (found,), (alone,) = sweeps(groups(whole + begun)), sweeps(groups(whole))
    for content in (speed_ups, lambda s: multipliers(s, s.multipliers())):
        section = content(found)
        assert section.table == content(alone).table
        assert section.text.endswith("Seeds that have all budgets of uniform, and no others: 0.")
    assert speed_ups(found).table.headers[1] == f"1.1x: {1.1 * (5 + 60 * 30**-0.8):.2f}%"  # type: ignore[union-attr]
    assert multipliers(sweep(), sweep().multipliers()).text.endswith("no others: 0, 1, 2.")


def test_a_target_reached_by_the_shortest_run_is_a_bound() -> None:
    found = [outcome(arm, epochs, 0, times) for epochs in (20, 30) for arm, times in (("uniform", 1), ("quick", 4))]
    (both,) = sweeps(groups(found))
    first, _, last = cells(speed_ups(both), "quick")
    assert re.fullmatch(r"< 20\.0 \(> 1\.\d\dx\)", first)
    assert last == "< 20.0 (?)"  # so did the shortest of uniform
    (without,) = sweeps(groups([outcome("quick", epochs, 0, 4) for epochs in (20, 30)]))
    assert "Not reported" in speed_ups(without).text


def test_stars_and_bounds() -> None:
    found = sweep(seeds=4)
    assert cells(type("S", (), {"table": errors(found)}), "twice")[0].endswith("*")
    assert "*" not in "".join(cells(type("S", (), {"table": errors(found)}), "uniform"))
    assert cells(non_inferiority(found), "twice")[0].startswith("not worse (+")
    assert cells(non_inferiority(found), "half")[0].startswith("worse (-")
    assert cells(non_inferiority(sweep(seeds=1)), "twice")[0] == "open (one seed)"


def test_among_many_arms_a_small_p_is_no_claim() -> None:
    def runs(arm: str, values: list[float]) -> list[Outcome]:
        summary = dict.fromkeys(COSTS, 1)
        return [
            Outcome(arm, "flops", 5, seed, Path(), {"test_accuracy": v, **summary}) for seed, v in enumerate(values)
        ]

    lucky, others = runs("lucky", [0.902, 0.905, 0.904, 0.907]), runs("uniform", [0.90] * 4)
    (alone,) = groups([*others, *lucky])
    assert "better by" in statements(alone)[0]
    noise = [run for number in range(6) for run in runs(f"arm{number}", [0.89, 0.91, 0.90, 0.90])]
    (crowd,) = groups([*others, *lucky, *noise])
    assert "no claim, for among so many arms" in statements(crowd)[0]
    p_values = [row[table(crowd).headers.index("p (Holm)")] for row in table(crowd).rows]
    assert p_values[0] == ""
    assert float(p_values[1]) > 0.05


def test_words_for_what_is_equal() -> None:
    assert "calibration beside the results" in how_to_read({"reference"})
    assert "Neither of candidates" not in how_to_read({"reference"})
    assert "  " not in how_to_read({"flops"})
    assert sweep(unit="reference").title == "Equal reference time"


def record(folder: Path, epochs: int, keep: float, known: bool) -> None:
    names = [f"{part}_loss_p{round(100 * at):02}" for part in ("trained", "seen") for at in QUANTILES]
    with (folder / "trained.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "seen", "trained", "seen_losses_from", *names, "class_0", "class_1"])
        writer.writeheader()
        for epoch in range(1, epochs + 1):
            losses = {name: "" if name.startswith("seen") and not known else 1 / epoch for name in names}
            counts = {"seen": 100, "trained": round(100 * keep), "class_0": 40, "class_1": 60}
            writer.writerow({"epoch": epoch, **counts, **losses})


def report(folder: Path, budgets: tuple[int, ...], **more: Any) -> str:
    found = []
    facts = dict.fromkeys(("train_examples", "parameters", "keep", "label_noise", "duplicates", "optimizer"), 1)
    facts |= {"data": "d", "model": "m", "schedule": "s", "environment": {"torch": "2"}, "learning_curve": "curve.csv"}
    for arm, times in ARMS.items():
        for epochs in budgets:
            for seed in (0, 1):
                cell = folder / f"{arm}-{epochs}-{seed}"
                cell.mkdir(parents=True)
                (cell / "curve.csv").write_text("trained,seconds,accuracy\n1,1,0.5\n2,2,0.6\n")
                if arm != "half":
                    record(cell, epochs, keep=1 / times, known=arm == "uniform")
                facts["learning_curve_on"] = "test set"
                cost = {"reference_seconds": 2.7 * epochs} if "reference_epoch_seconds" in more else {}
                found.append(
                    outcome(arm, epochs, seed, times, cell, class_accuracy=[0.5, 0.6], **facts, **more, **cost)
                )
    write_report(found, len(found), folder, "command", Console(file=io.StringIO()))
    return (folder / "report.html").read_text()


def test_pages_of_several_budgets(tmp_path: Path) -> None:
    parts = {"load": 1.0, "score": 2.0, "select": 0.1, "train": 5.0, "rate": 0.0, "before": 0.0}
    spent = {"reference_breakdown": parts, "reference_epoch_seconds": 2.7}
    tested = {"worst_class_accuracy": 0.5, "calibration_error": 0.04}
    page = report(tmp_path, (3, 6), unit="reference", **spent, **tested)
    made = {path.name for path in (tmp_path / "plots").iterdir()}
    apart = {f"{name}-6-reference.png" for name in ("kept", "losses", "classes", "costs", "curves")}
    assert made == {"budgets-reference.png", "curves-3-reference.png", *apart}
    assert page.count('src="data:image/png;base64,') == len(made)
    assert not re.search(r'(src|href)="(?!data:)', page)
    for heading in ("final error", "equivalent budgets", "budget to a target error", "not worse than uniform?"):
        assert f"Equal reference time: {heading}</h2>" in page
    assert "worst class, %" in page
    assert "<td>4.00</td>" in page  # the calibration error
    with (tmp_path / "claims.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epochs"], row["arm"]) for row in rows] == [(str(b), arm) for b in (3, 6) for arm in ARMS]
    assert float(rows[1]["difference"]) == pytest.approx(100 * 0.6 * (3**-0.8 - 6**-0.8), rel=0.02)
    assert rows[0]["difference"] == rows[0]["multiplier_value"] == ""
    assert "class_accuracy" not in (tmp_path / "results.csv").read_text().splitlines()[0].split(",")


def test_one_budget_stays_short_and_older_runs_can_be_shown(tmp_path: Path) -> None:
    page = report(tmp_path, (3,))
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"curves-3-flops.png"}
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "How to read this",
        "Equal FLOPs: 3 epochs&#x27; worth",
        "Arms",
        "Circumstances",
    ]
    assert "ECE" not in page


def test_no_error_at_all_has_a_logarithm() -> None:
    perfect = outcome("uniform", 3, 0, 1.0, test_accuracy=1.0)
    assert perfect.error == 50 / 10_000
    assert math.isfinite(groups([perfect])[0].log_errors("uniform")[0])
