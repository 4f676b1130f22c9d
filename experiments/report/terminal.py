"""A report on the terminal: its tables and statements."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from experiments.report.document import Document, Table


def show(document: Document, console: Console) -> None:
    """Prints tables and statements; the pages hold the rest."""
    for section in document.sections:
        if section.brief is None:
            continue
        console.print(_table(section.title, section.brief))
        for statement in section.statements:
            console.print(f"- {statement}", markup=False)
        console.print()


def _table(title: str, table: Table) -> RichTable:
    rich = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for number, header in enumerate(table.headers):
        rich.add_column(header, justify="right" if number else "left", no_wrap=not number)
    for row in table.rows:
        rich.add_row(*row)
    return rich
