"""The cache serves what the files hold, never what they once held."""

import os
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.data import ImageFolder, image_folder
from tests.experiments import files
from tests.experiments.sources import PLAIN


def read(root: Path) -> torch.Tensor:
    return ImageFolder(**PLAIN, root=str(root), size=None, cache=True).read()[0].pixels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files.write_folder(tmp_path)
    return tmp_path


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(image_folder, "decode", refuse)


def test_second_reading_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root)
    assert sorted(file.name for file in root.glob(".litselect*")) == [
        ".litselect-train-original.safetensors",
        ".litselect-val-original.safetensors",
    ]
    forbid_decoding(monkeypatch)
    assert torch.equal(read(root), first)


def test_changed_file(root: Path) -> None:
    before = read(root)
    Image.new("RGB", (12, 12), (1, 2, 3)).save(root / "train" / "cat" / "1.jpg")
    after = read(root)
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2:], after[2:])


def test_renamed_file(root: Path) -> None:
    before = read(root)
    os.rename(root / "train" / "cat" / "0.jpg", root / "train" / "cat" / "9.jpg")
    assert torch.equal(read(root)[:4], before[[1, 2, 3, 0]])


def test_moved_folder_keeps_its_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root)
    moved = root.with_name("moved")
    os.rename(root, moved)
    forbid_decoding(monkeypatch)
    assert torch.equal(read(moved), first)


def test_damaged_cache(root: Path) -> None:
    first = read(root)
    (root / ".litselect-train-original.safetensors").write_bytes(b"\x00" * 100)
    with pytest.warns(UserWarning, match="unreadable"):
        assert torch.equal(read(root), first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(root)


def test_unwritable_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.warns(UserWarning, match=r"Permission denied.*data\.cache=false"):
        assert len(read(root)) == 8
    assert not list(root.glob(".litselect*"))
