"""Results that outlive a run which was interrupted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.files import read_json, write_json
from experiments.records import Row


class Store:
    """Keeps what has been measured, each part in a file with the settings that it was measured with.

    Args:
        folder: of the files.
        common: settings that all parts share.
        report: told what is kept and what is measured.
    """

    def __init__(self, folder: Path, common: dict[str, Any], report: Callable[[str], None]) -> None:
        self._folder, self._common, self._report = folder, common, report

    def rows(self, name: str, settings: dict[str, Any], measure: Callable[[], list[Row]]) -> list[Row]:
        """The rows of a part: those in its file if the settings are the same, or else as measured now.

        Args:
            name: of the part.
            settings: its own.
            measure: makes the rows.
        """
        file = self._folder / f"{name}.json"
        settings = json.loads(json.dumps({**self._common, **settings}))  # as they are read
        if file.exists():
            kept = read_json(file)
            if kept["settings"] == settings:
                self._report(f"{name}: kept")
                return kept["rows"]
        self._report(f"{name}: measuring")
        rows = measure()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"settings": settings, "rows": rows})
        return rows
