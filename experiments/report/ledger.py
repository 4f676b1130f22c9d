"""What a run remembers of its examples, as tables and pictures."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.data import ImageData
from experiments.report.contact_sheet import ContactSheet

SHOWN = 40  # pictures on a sheet


def write_ledger(ledger: Any, data: ImageData, folder: Path) -> list[Path]:
    """Writes `ledger.csv`, `ledger.parquet` where pyarrow is installed, and contact sheets.

    Args:
        ledger: a `litselect.scoring.Ledger` of the training set.
        data: what was trained on.
        folder: where the files go, those of the sheets into `contact_sheets`.

    Returns:
        The files.
    """
    tables = [folder / "ledger.csv"]
    if importlib.util.find_spec("pyarrow"):
        tables.append(folder / "ledger.parquet")
    for table in tables:
        ledger.export(table)
    files = []
    for name, sheet in contact_sheets(ledger, data).items():
        files.append(folder / "contact_sheets" / f"{name}.png")
        sheet.draw(data.train, data.true_labels, files[-1])
    return tables + files


def contact_sheets(ledger: Any, data: ImageData) -> dict[str, ContactSheet]:
    """The sheets by name; none for what did not happen.

    Among equals, examples of higher loss come first: they are the likelier mistakes.
    """
    trained, forgotten = ledger.trained.cpu().long(), ledger.forgotten.cpu().long()
    loss = ledger.loss.cpu().float().nan_to_num(nan=-torch.inf)
    never = (trained == 0) & (ledger.seen.cpu() > 0)
    chosen = {
        "most_trained": ("Most trained", trained, trained > 0, "trained {count}x"),
        "never_trained": ("Never trained, highest loss first", torch.zeros_like(trained), never, "loss {loss:.2g}"),
        "most_forgotten": ("Most forgotten", forgotten, forgotten > 0, "forgotten {count}x"),
    }
    sheets = {}
    for name, (title, key, among, note) in chosen.items():
        rows = _first(key, loss, among)
        if len(rows):
            notes = [f"{note.format(count=int(key[row]), loss=float(loss[row]))} #{int(row)}" for row in rows]
            sheets[name] = ContactSheet(_heading(title, rows, int(among.sum()), data), rows, notes)
    return sheets


def _first(key: Tensor, loss: Tensor, among: Tensor) -> Tensor:
    """The rows of largest key, then of largest loss, then of lowest number."""
    rows = among.nonzero().squeeze(1)
    rows = rows[loss[rows].sort(descending=True, stable=True).indices]
    return rows[key[rows].sort(descending=True, stable=True).indices][:SHOWN]


def _heading(title: str, rows: Tensor, among: int, data: ImageData) -> str:
    """What is shown, of how many; and where labels were made wrong, how many of the shown ones."""
    whole = "" if among == len(data.train) else f"; the training set has {len(data.train)}"
    heading = f"{title} ({len(rows)} of {among}{whole})"
    wrong = data.true_labels != data.train.labels
    if not wrong.any():
        return heading
    return f"{heading}\nmislabelled: {wrong[rows].float().mean():.0%} of those shown, {wrong.float().mean():.0%} of all"
