"""A report as Markdown."""

import os
from pathlib import Path

from experiments.report.document import Document, Section, Table


def to_markdown(document: Document, folder: Path) -> str:
    """The text of a Markdown file that lies in `folder`; pictures are linked."""
    parts = [f"# {document.title}", f"Made by:\n\n```\n{document.command}\n```"]
    for section in document.sections:
        parts += _section(section, folder)
    return "\n\n".join(parts) + "\n"


def _section(section: Section, folder: Path) -> list[str]:
    parts = [f"## {section.title}"]
    if section.text:
        parts.append(section.text)
    if section.table is not None:
        parts.append(to_table(section.table))
    if section.statements:
        parts.append("\n".join(f"- {statement}" for statement in section.statements))
    return [*parts, *(f"![{figure.caption}]({_link(figure.file, folder)})" for figure in section.figures)]


def _link(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


def to_table(table: Table) -> str:
    """Headers and rows; all columns but the first are set right."""
    rule = ("---", *("---:" for _ in table.headers[1:]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.headers, rule, *table.rows))
