"""Writes a report in all its forms."""

import csv
import io
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import records
from experiments.arms import BASELINE
from experiments.files import write_text
from experiments.report import sweep_content
from experiments.report.content import brief, how_to_read, remarks, statements, table
from experiments.report.document import Document, Section, Table
from experiments.report.group import Group, groups
from experiments.report.html import to_html
from experiments.report.markdown import to_markdown
from experiments.report.multiplier import Multiplier
from experiments.report.outcome import Outcome
from experiments.report.plots import learning_curves
from experiments.report.sweep import Sweep, sweeps
from experiments.report.sweep_figures import costs, pareto
from experiments.report.terminal import show
from experiments.report.trained_figures import trained_figures

OF_CELL = ("seed", "trainer.max_epochs", "unit", "experiment")  # words of a command that do not tell arms apart


def write_report(outcomes: list[Outcome], planned: int, folder: Path, command: str, console: Console) -> None:
    """Writes `results.csv`, `claims.csv`, `report.md`, `report.html` and `plots/`, and prints the tables.

    Args:
        outcomes: what is done, at least one.
        planned: how many outcomes there are to be in the end.
        folder: where the report goes.
        command: what made it.
        console: where the tables go.
    """
    write_text(folder / "results.csv", _csv(outcomes, folder))
    document = _document(outcomes, planned, folder, command)
    write_text(folder / "report.md", to_markdown(document, folder))
    write_text(folder / "report.html", to_html(document))
    show(document, console)
    if len(outcomes) < planned:
        console.print(f"{len(outcomes)} of {planned} cells are done; the same command goes on from here.")
    console.print(f"Report: {folder / 'report.html'}", soft_wrap=True)


def _document(outcomes: list[Outcome], planned: int, folder: Path, command: str) -> Document:
    first = outcomes[0].summary
    sections = [Section("How to read this", _state(len(outcomes), planned) + how_to_read({o.unit for o in outcomes}))]
    found, claims = groups(outcomes), []
    of_unit = {sweep.unit: sweep for sweep in sweeps(found)}
    multipliers = {unit: sweep.multipliers() for unit, sweep in of_unit.items()}
    for unit, sweep in of_unit.items():
        sections += _sweep_sections(sweep, multipliers[unit], folder / "plots")
    for group in found:
        sections.append(_group_section(group, folder / "plots"))
        claims += sweep_content.claims(group, multipliers.get(group.unit, {}))
    records.write(folder / "claims.csv", claims)
    facts = {**environments(outcomes), "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}
    facts["learning curves on"] = first["learning_curve_on"]
    settings = (
        "train_examples",
        "test_examples",
        "parameters",
        "keep",
        "label_noise",
        "duplicates",
        "optimizer",
        "schedule",
    )
    facts |= {key.replace("_", " "): str(first[key]) for key in settings}
    sections.append(Section("Arms", table=arms_table(outcomes)))
    sections.append(Section("Circumstances", table=Table(("fact", "value"), list(facts.items()))))
    return Document(f"Example selection on {first['data']} with {first['model']}", command, sections)


def arms_table(outcomes: list[Outcome]) -> Table:
    """What tells the arms apart: the words of their commands that they do not all have in common."""
    words = {outcome.arm: shlex.split(outcome.summary.get("command", ""))[3:] for outcome in outcomes}
    common = set.intersection(*map(set, words.values()))
    own = {
        arm: [word for word in said if word not in common and word.partition("=")[0] not in OF_CELL]
        for arm, said in words.items()
    }
    return Table(("arm", "settings"), [(arm, " ".join(said)) for arm, said in own.items()])


def _group_section(group: Group, folder: Path) -> Section:
    drawn = any(outcome.curve() for outcomes in group.arms.values() for outcome in outcomes)
    figures = [learning_curves(group, folder / f"curves-{group.epochs}-{group.unit}.png")] if drawn else []
    whole = table(group)
    return Section(group.title, remarks(group), whole, statements(group), figures, brief(whole))


def _sweep_sections(sweep: Sweep, multipliers: dict[tuple[str, int], Multiplier], folder: Path) -> list[Section]:
    """What only several budgets can tell; what was trained, and costs, are shown at the largest that most arms have."""
    largest = max(sweep.groups, key=lambda group: (len(group.arms), group.epochs))
    text = f"Final test error, %, mean and standard deviation; * differs from {BASELINE} after Holm's correction."
    ends = pareto(sweep, folder / f"budgets-{sweep.unit}.png")
    spent = costs(largest, folder / f"costs-{largest.epochs}-{sweep.unit}.png")
    trained = trained_figures(largest, folder)
    found = [
        Section(f"{sweep.title}: final error", text, sweep_content.errors(sweep), figures=ends),
        sweep_content.multipliers(sweep, multipliers),
        sweep_content.speed_ups(sweep),
        sweep_content.non_inferiority(sweep),
    ]
    if trained:
        found.append(Section(f"{sweep.title}: what was trained in {largest.epochs} epochs' worth", figures=trained))
    if spent is not None:
        found.append(Section(f"{sweep.title}: what the time went into", figures=[spent]))
    return found


def _state(done: int, planned: int) -> str:
    return f"This report is not complete: {done} of {planned} cells are done. " if done < planned else ""


def environments(outcomes: list[Outcome]) -> dict[str, str]:
    """Hardware and versions; all of them, where cells ran in several."""
    described = [outcome.summary["environment"] for outcome in outcomes]
    return {name: "; ".join(dict.fromkeys(str(facts.get(name)) for facts in described)) for name in described[0]}


def _csv(outcomes: list[Outcome], folder: Path) -> str:
    """One row for each cell: its place in the plan, every plain value of its summary, and its folder."""
    rows = [_csv_row(outcome, folder) for outcome in outcomes]
    text = io.StringIO(newline="")
    # what a callback measures is missing where there is none, so the columns are those of all rows
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(outcome: Outcome, folder: Path) -> dict[str, Any]:
    plain = {key: value for key, value in outcome.summary.items() if not isinstance(value, dict | list)}
    place = {"arm": outcome.arm, "budget_unit": outcome.unit, "budget_epochs": outcome.epochs}
    ran = {name: outcome.summary["environment"].get(name, "") for name in ("commit", "hardware")}
    return {**place, **plain, **ran, "folder": outcome.folder.relative_to(folder).as_posix()}
