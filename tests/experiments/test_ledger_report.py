"""What a run remembers of its examples, as tables and contact sheets."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data import ImageData
from experiments.report.contact_sheet import ContactSheet
from experiments.report.ledger import SHOWN, contact_sheets, write_ledger
from litselect.scoring import Ledger
from tests.experiments.conftest import Command
from tests.experiments.sources import digits

PARTS = digits().read()
ROWS = len(PARTS[0])
CLEAN = ImageData(digits(), seed=0, parts=PARTS)
NOISY = ImageData(digits(label_noise=0.2), seed=0, parts=PARTS)


def ledger(**entries: Any) -> Ledger:
    """A ledger of examples that were all seen and trained once, but for `entries`: values by row."""
    made = Ledger(ROWS)
    made.seen[:] = made.trained[:] = 1
    made.loss[:] = 0.5
    for name, values in entries.items():
        for row, value in values.items():
            getattr(made, name)[row] = value
    return made


def shown(name: str, **entries: Any) -> list[int]:
    sheets = contact_sheets(ledger(**entries), CLEAN)
    return sheets[name].rows.tolist() if name in sheets else []


def test_most_trained_first_and_of_equals_those_of_higher_loss() -> None:
    found = shown("most_trained", trained={7: 9, 3: 4, 5: 4, 8: 4}, loss={5: 2.0, 8: float("nan")})
    assert found[:4] == [7, 5, 3, 8]
    assert len(found) == SHOWN


def test_never_trained_are_those_that_were_seen() -> None:
    assert shown("never_trained", trained={4: 0, 6: 0, 9: 0}, seen={9: 0}, loss={6: 3.0}) == [6, 4]


def test_forgotten_ones_alone() -> None:
    assert shown("most_forgotten", forgotten={2: 1, 11: 3}) == [11, 2]


def test_what_did_not_happen_has_no_sheet() -> None:
    assert contact_sheets(ledger(), CLEAN).keys() == {"most_trained"}


def test_headings_count_planted_mistakes_where_there_are_any() -> None:
    wrong = (NOISY.true_labels != NOISY.train.labels).nonzero().squeeze(1).tolist()
    right = (NOISY.true_labels == NOISY.train.labels).nonzero().squeeze(1).tolist()
    rows = [*wrong[:3], right[0]]
    forgotten = {"forgotten": dict.fromkeys(rows, 1)}
    title = contact_sheets(ledger(**forgotten), NOISY)["most_forgotten"].title
    assert title.endswith("mislabelled: 75% of those shown, 20% of all")
    assert "mislabelled" not in contact_sheets(ledger(**forgotten), CLEAN)["most_forgotten"].title


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # without pyarrow
    files = write_ledger(ledger(forgotten={0: 1}), NOISY, tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        *("ledger.csv", "contact_sheets/most_trained.png", "contact_sheets/most_forgotten.png"),
    ]
    with files[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == ROWS
    assert rows[0]["forgotten"] == "1"


def test_parquet_where_it_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[str] = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "pyarrow" or None)
    monkeypatch.setattr(Ledger, "export", lambda self, path: exported.append(path.name))
    write_ledger(ledger(), CLEAN, tmp_path)
    assert exported == ["ledger.csv", "ledger.parquet"]


def drawn(file: Path, labels: torch.Tensor, rows: list[int] | None = None) -> np.ndarray:
    rows = [0, 1] if rows is None else rows
    images = CLEAN.train.with_labels(labels)
    ContactSheet("Title", torch.tensor(rows), ["note"] * len(rows)).draw(images, CLEAN.true_labels, file)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_wrong_labels_stand_out_and_pictures_differ(tmp_path: Path) -> None:
    labels = CLEAN.true_labels.clone()
    right = drawn(tmp_path / "right.png", labels)
    labels[1] = (labels[1] + 1) % 10
    wrong = drawn(tmp_path / "wrong.png", labels)

    def coloured(image: np.ndarray) -> int:
        return int((image[..., 0] - image[..., 2] > 100).sum())

    assert coloured(right) == 0
    assert coloured(wrong) > 50
    assert not np.array_equal(drawn(tmp_path / "other.png", CLEAN.true_labels, rows=[2, 1]), right)


@pytest.mark.draws
def test_a_run_with_a_ledger_writes_it(application: Command, tmp_path: Path) -> None:
    arguments = ("trainer.max_epochs=3", "logger=none", "progress=false", "data.label_noise=0.2")
    assert application("train", "selection=selective_backprop_ledger", *arguments) == 0
    with (tmp_path / "run" / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(ROWS))
    assert sum(int(row["trained"]) for row in rows) == pytest.approx(2 * ROWS, abs=40)
    assert {int(row["scored"]) for row in rows} == {0}
    assert (tmp_path / "run" / "contact_sheets" / "most_trained.png").exists()


def test_a_run_without_one_does_not(application: Command, tmp_path: Path) -> None:
    assert application("train", "trainer.max_epochs=1", "logger=none", "progress=false") == 0
    assert not (tmp_path / "run" / "ledger.csv").exists()
    assert not (tmp_path / "run" / "contact_sheets").exists()
