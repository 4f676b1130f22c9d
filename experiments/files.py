"""Files that are either whole or absent."""

import json
import os
from pathlib import Path
from typing import Any

from experiments.errors import UsageError


def write_text(path: Path, text: str) -> None:
    """Writes `text` to a file beside `path` and moves it there, so that a reader never meets half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        UsageError: if the file is no longer what it was.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the encoding, too
        raise UsageError(
            f"a file of results is written whole, received a damaged one, {path} ({error}); delete it and run again "
            "what made it"
        ) from error
