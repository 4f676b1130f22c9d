"""Writes a report in all its forms."""

import csv
import io
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.files import write_text
from experiments.report.content import HOW_TO_READ, groups, remarks, statements, table
from experiments.report.document import Document, Section, Table
from experiments.report.html import to_html
from experiments.report.markdown import to_markdown
from experiments.report.outcome import Outcome
from experiments.report.plots import learning_curves
from experiments.report.terminal import show


def write_report(outcomes: list[Outcome], planned: int, folder: Path, command: str, console: Console) -> None:
    """Writes `results.csv`, `report.md`, `report.html` and `plots/`, and prints the tables.

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
    sections = [Section("How to read this", _state(len(outcomes), planned) + HOW_TO_READ)]
    for group in groups(outcomes):
        figure = learning_curves(group, folder / "plots" / f"curves-{group.epochs}-{group.unit}.png")
        sections.append(Section(group.title, remarks(group), table(group), statements(group), [figure]))
    facts = {**first["environment"], "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}
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
    sections.append(Section("Circumstances", table=Table(("fact", "value"), list(facts.items()))))
    return Document(f"Example selection on {first['data']} with {first['model']}", command, sections)


def _state(done: int, planned: int) -> str:
    return f"This report is not complete: {done} of {planned} cells are done. " if done < planned else ""


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
    plain = {key: value for key, value in outcome.summary.items() if not isinstance(value, dict)}
    place = {"budget_unit": outcome.unit, "budget_epochs": outcome.epochs}
    return {**place, **plain, "folder": outcome.folder.relative_to(folder).as_posix()}
