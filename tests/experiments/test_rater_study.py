"""The studies of raters: what they train, what they keep, what they write."""

from pathlib import Path

import pytest

from experiments.rater_study.arms import ARMS, MEANING
from experiments.rater_study.verdict import verdict
from experiments.records import read
from tests.experiments.conftest import Command

META = '"meta.population=1","meta.meta_steps=2","meta.log_every=1","rater.width=4"'
TINY = f'digits=["model.width=16","data.heldout_fraction=0.1","data.batch_size=256","trainer.max_epochs=1",{META}]'


def tiny(folder: Path) -> tuple[str, ...]:
    places = (f"study={folder}/study", f"docs={folder}/docs", f"pictures={folder}/docs")
    return TINY, "settings=[digits_labels40]", *places


def test_every_arm_is_named() -> None:
    assert ARMS.keys() == MEANING.keys()


@pytest.mark.draws
def test_raters_are_kept_and_drawn(application: Command, tmp_path: Path) -> None:
    assert application("rater_auroc", *tiny(tmp_path), "seeds=2") == 0
    made = tmp_path / "study" / "digits_labels40" / "rater-seed1" / "rater.json"
    before = made.stat().st_mtime_ns
    rows = read(tmp_path / "docs" / "auroc.csv")
    assert [(row["seed"], row["meta_step"]) for row in rows] == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]
    assert "Digits, 40 % wrong labels" in (tmp_path / "docs" / "auroc.md").read_text()
    assert (tmp_path / "docs" / "auroc.png").stat().st_size > 5000
    assert application("rater_auroc", *tiny(tmp_path), "seeds=2") == 0
    assert made.stat().st_mtime_ns == before


def test_arms_share_a_budget_and_are_kept(application: Command, tmp_path: Path) -> None:
    arms = "arms=[uniform,datarater_drawn,heldout_model_drawn]"
    assert application("rater_arms", *tiny(tmp_path), "seeds=1", arms) == 0
    rows = {row["arm"]: row for row in read(tmp_path / "docs" / "arms.csv")}
    budget = int(rows["uniform"]["flops"])
    assert all(int(row["flops"]) == pytest.approx(budget, rel=0.15) for row in rows.values())
    summary = tmp_path / "study" / "digits_labels40" / "datarater_drawn-seed0" / "summary.json"
    before = summary.stat().st_mtime_ns
    assert application("rater_arms", *tiny(tmp_path), "seeds=1", arms) == 0
    assert summary.stat().st_mtime_ns == before
    assert "DataRater, drawn" in (tmp_path / "docs" / "arms.md").read_text()


def test_refused(application: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert application("rater_arms", "settings=[images_clean]") == 2
    assert "those of images need root=<folder>" in capsys.readouterr().err
    assert application("rater_arms", "arms=[best]") == 2
    assert "received best" in capsys.readouterr().err


def rows(**accuracies: tuple[float, ...]) -> dict[str, dict[int, dict[str, str]]]:
    return {
        arm: {seed: {"test_accuracy": str(value)} for seed, value in enumerate(values)}
        for arm, values in accuracies.items()
    }


def test_a_cheap_winner_comes_first() -> None:
    first, text = verdict(
        {
            "digits_clean": rows(uniform=(0.5, 0.51, 0.5), datarater_hard=(0.6, 0.61, 0.601)),
            "digits_pixels40": rows(uniform=(0.5, 0.7, 0.6), datarater_hard=(0.7, 0.6, 0.6)),
            "digits_labels40": rows(uniform=(0.7,), datarater_hard=(0.6,), uniform_twice=(0.9,)),
        }
    )
    assert "at least as well in 1 of 3 comparisons**; in 1 the lead" in first
    cheap, shown, chance = text.splitlines()
    assert cheap.startswith("- Digits, 40 % wrong labels: **a cheap baseline wins**")
    assert "70.0 %" in cheap
    assert shown.startswith("- Digits, clean: a rater leads")
    assert "+10.0" in shown
    assert "chance" not in shown
    assert "which may be chance" in chance


def test_budgets_are_not_compared_with_each_other() -> None:
    results = rows(uniform=(0.9,), uniform_twice=(0.5,), datarater_counted_twice=(0.6,))
    _, text = verdict({"digits_labels40": results})
    assert text.startswith("- Digits, 40 % wrong labels, twice the budget, all counted: a rater leads")


def test_nothing_to_say_yet() -> None:
    assert verdict({"digits_clean": rows(uniform=(0.5,))}) == []
