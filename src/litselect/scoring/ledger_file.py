"""Tables on disk."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any


def write_table(table: dict[str, list[Any]], path: str | Path) -> None:
    """Write columns of equal length as CSV, or as parquet where `path` ends in ``.parquet``.

    Raises:
        ModuleNotFoundError: if parquet is asked for and pyarrow is not installed.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        try:
            pyarrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{path} is to be a parquet file, which pyarrow writes, but it is not installed. "
                "Install it (pip install pyarrow), or give the path the suffix .csv."
            ) from error
        parquet.write_table(pyarrow.table(table), path)
        return
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
