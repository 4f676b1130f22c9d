"""A report claims what the numbers bear, losses as readily as wins."""

import math
from pathlib import Path

import pytest
from scipy import stats

from experiments.report import plots
from experiments.report.content import groups, statements, table
from experiments.report.document import Document, Section, Table
from experiments.report.html import to_html
from experiments.report.markdown import to_markdown
from experiments.report.outcome import Outcome
from experiments.report.statistics import Spread, paired
from experiments.report.style import canvas, legend_below
from experiments.report.write import environments


def outcome(arm: str, seed: int, accuracy: float, flops: int = 100) -> Outcome:
    costs = {"candidates_seen": 10, "examples_scored": 0, "examples_trained": 10, "optimizer_steps": 1}
    summary = {"test_accuracy": accuracy, "flops": flops, "seconds": 2.0, **costs}
    return Outcome(arm, "candidates", 5, seed, Path(), summary)


def verdicts(uniform: list[float], other: list[float]) -> list[str]:
    outcomes = [outcome("uniform", seed, value) for seed, value in enumerate(uniform)]
    outcomes += [outcome("other", seed, value, flops=150) for seed, value in enumerate(other)]
    (group,) = groups(outcomes)
    return statements(group)


@pytest.mark.parametrize("evaluated", [[4, 10], [4], []], ids=str)
@pytest.mark.parametrize("on", ["test set", "validation split"])
def test_learning_curves_end_where_training_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: list[int], on: str
) -> None:
    """Not at the last evaluation within it, which of short epochs is long before."""
    monkeypatch.setattr(plots, "save", lambda figure, *_: figure)
    summary = {**outcome("uniform", 0, 0.75).summary, "test_examples": 100, "val_accuracy": 0.5}
    summary |= {"learning_curve": "curve.csv", "learning_curve_on": on}
    lines = ["trained,seconds,accuracy", *(f"{trained},{trained / 5},0.{trained:02}" for trained in evaluated)]
    (tmp_path / "curve.csv").write_text("\n".join(lines))
    (group,) = groups([Outcome("uniform", "candidates", 5, seed, tmp_path, summary) for seed in (0, 1)])
    (line,) = plots.learning_curves(group, tmp_path / "curves.png").axes[0].get_lines()
    end = 90 if evaluated == [4, 10] else 25 if on == "test set" else 50
    assert list(line.get_xdata()) == sorted({*evaluated, 10})
    assert line.get_ydata()[-1] == pytest.approx(end)


def test_learning_curves_of_unequal_length_end_at_their_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "save", lambda figure, *_: figure)
    summary = {**outcome("uniform", 0, 0.75).summary, "test_examples": 100, "learning_curve": "curve.csv"}
    outcomes = list[Outcome]()
    for seed, evaluated in enumerate([[10], [4, 10]]):
        folder = tmp_path / str(seed)
        folder.mkdir()
        lines = ["trained,seconds,accuracy", *(f"{trained},{trained / 5},0.{trained:02}" for trained in evaluated)]
        (folder / "curve.csv").write_text("\n".join(lines))
        outcomes.append(Outcome("uniform", "candidates", 5, seed, folder, {**summary, "learning_curve_on": "test set"}))
    (group,) = groups(outcomes)
    (line,) = plots.learning_curves(group, tmp_path / "curves.png").axes[0].get_lines()
    assert line.get_ydata()[-1] == pytest.approx(25)


def test_spread_against_scipy() -> None:
    values = [1.0, 2.5, 4.0, 3.5]
    spread = Spread.of(values)
    low, high = stats.t.interval(0.95, 3, loc=spread.mean, scale=stats.sem(values))
    assert (spread.mean - spread.margin, spread.mean + spread.margin) == pytest.approx((low, high))
    assert math.isnan(Spread.of([1.0]).std)
    assert Spread.of([1.0]).margin == math.inf


def test_differences_are_paired_by_seed() -> None:
    found = paired({0: 3.0, 1: 5.0, 7: 9.0}, {1: 4.0, 0: 2.0, 8: 1.0})
    assert found == Spread(mean=1.0, std=0.0, count=2)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_a_win_is_called_one() -> None:
    (verdict,) = verdicts([0.90, 0.91, 0.89], [0.93, 0.94, 0.921])
    assert verdict.startswith("other against uniform: better by 3.03 points")
    assert "1.50 times the FLOPs and 1.00 times the seconds" in verdict


def test_a_loss_is_called_one() -> None:
    (verdict,) = verdicts([0.93, 0.94, 0.921], [0.90, 0.91, 0.89])
    assert "worse by 3.03 points" in verdict


def test_nothing_is_claimed_within_the_spread_or_from_one_seed() -> None:
    assert "no difference beyond the spread (+1.00 points" in verdicts([0.90, 0.94, 0.92], [0.95, 0.92, 0.92])[0]
    assert "no claim" in verdicts([0.90], [0.99])[0]


def test_an_arm_is_held_against_chance_too() -> None:
    outcomes = [
        outcome(arm, seed, 0.9 + seed / 100) for seed in (0, 1) for arm in ("uniform", "random_subset", "other")
    ]
    (group,) = groups(outcomes)
    assert [verdict.split(":")[0] for verdict in statements(group)] == [
        "random_subset against uniform",
        "other against uniform",
        "other against random_subset",
    ]


def test_without_a_baseline_nothing_is_compared() -> None:
    (group,) = groups([outcome("other", 0, 0.9)])
    assert statements(group) == []
    assert table(group).rows[0][3] == ""


def test_pages_escape_what_they_show() -> None:
    section = Section("A < B", "x & y", Table(("a", "b"), [("<i>", "1")]), ["1 < 2"])
    document = Document("T", "command --x='<y>'", [section])
    page = to_html(document)
    assert "<td>&lt;i&gt;</td>" in page
    assert "A &lt; B" in page
    text = to_markdown(document, Path())
    assert "| a | b |\n| --- | ---: |\n| <i> | 1 |" in text


@pytest.mark.parametrize("length", [5, 30, 80])
def test_a_legend_fits_below_its_figure(length: int) -> None:
    figure, ((panel,),) = canvas(1, 1, (9, 6.5))
    for number in range(20):
        panel.plot([0, 1], label=f"{number} {'x' * length}")
    legend = legend_below(figure, panel)
    figure.canvas.draw()
    extent = legend.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    assert len(legend.get_texts()) == 20
    assert [legend] == figure.legends
    assert legend._ncols in {5: (4,), 30: (2, 3), 80: (1,)}[length]


def test_all_machines_and_versions_are_told() -> None:
    """Cells may have run at different times and places."""
    ran = [{"commit": "aaa", "torch": "2"}, {"commit": "bbb", "torch": "2"}, {"commit": "aaa", "torch": "2"}]
    outcomes = [
        Outcome("uniform", "trained", 5, seed, Path(), {"environment": facts}) for seed, facts in enumerate(ran)
    ]
    assert environments(outcomes) == {"commit": "aaa; bbb", "torch": "2"}
