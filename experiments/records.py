"""Results as CSV files."""

import csv
import io
from pathlib import Path

from experiments.files import write_text

Row = dict[str, str]


def write(path: Path, rows: list[Row]) -> None:
    """Writes a file with the columns of the first row; makes its folder."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


def read(path: Path) -> list[Row]:
    """The rows of a file."""
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))
