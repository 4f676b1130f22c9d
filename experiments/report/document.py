"""The content of a report, before it becomes Markdown, HTML or text on a terminal."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Table:
    """Headers and rows of text; the first column is left-aligned, the others right.

    Attributes:
        headers: one for each column.
        rows: cells of each row.
    """

    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        file: a PNG file in or below the folder of the report.
        caption: what it shows.
    """

    file: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order: text, table, statements, figures.

    Attributes:
        title: the heading.
        text: a paragraph, may be empty.
        table: numbers, if any.
        statements: one line each.
        figures: pictures.
        brief: what a terminal shows of the table; None leaves the section to the pages.
    """

    title: str
    text: str = ""
    table: Table | None = None
    statements: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    brief: Table | None = None


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: the heading of it all.
        command: what made it.
        sections: its parts.
    """

    title: str
    command: str
    sections: list[Section]
