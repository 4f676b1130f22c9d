"""Every source reads the format in which its data set is distributed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from experiments.data import Cifar, ImageFolder, Svhn
from experiments.errors import UsageError
from tests.experiments import files
from tests.experiments.sources import PLAIN, digits


def cifar(root: Path, classes: int = 10, download: bool = False) -> Cifar:
    return Cifar(**PLAIN, classes=classes, root=str(root), download=download)


def folder(root: Path, size: int | None = None, cache: bool = True) -> ImageFolder:
    return ImageFolder(**PLAIN, root=str(root), size=size, cache=cache)


def test_digits() -> None:
    train, test = digits().read()
    assert train.pixels.shape == (1257, 1, 8, 8)
    assert test.pixels.shape == (540, 1, 8, 8)
    assert train.pixels.dtype == torch.uint8
    assert train.pixels.max() == 240
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(10))
    rows = {tuple(row) for row in train.pixels.flatten(1).tolist()}
    assert not any(tuple(row) in rows for row in test.pixels.flatten(1).tolist())


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = files.write_cifar(tmp_path, classes, monkeypatch)
    train, test = cifar(tmp_path, classes).read()
    batches = [pixels[name] for name in pixels if name.startswith(("data", "train"))]
    assert np.array_equal(train.pixels.numpy(), np.concatenate(batches))
    assert np.array_equal(test.pixels.numpy(), pixels["test_batch" if classes == 10 else "test"])
    assert test.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert train.classes == classes


def test_cifar_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_cifar(tmp_path, 10, monkeypatch)
    with (tmp_path / "cifar-10-batches-py" / "test_batch").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UsageError, match=r"data\.root=.*corrupted.*data\.download=true"):
        cifar(tmp_path).read()


def test_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(UsageError, match="check the connection"):
        cifar(tmp_path, download=True).read()


def test_classes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="10 or 100, received 20"):
        cifar(tmp_path, classes=20)


@pytest.mark.parametrize("extra", [False, True])
def test_svhn(extra: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = files.write_svhn(tmp_path, monkeypatch)
    train, test = Svhn(**PLAIN, root=str(tmp_path), download=False, extra=extra).read()
    assert len(train) == (19 if extra else 12)
    assert np.array_equal(test.pixels.numpy(), pixels["test"].transpose(3, 2, 0, 1))
    assert train.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_folder(tmp_path: Path) -> None:
    files.write_folder(tmp_path)
    train, test = folder(tmp_path).read()
    assert train.pixels.shape == (8, 3, 12, 12)
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert test.labels.tolist() == [0, 0, 1, 1]
    for row, red, green in ((0, 10, 20), (3, 10, 50), (7, 70, 50)):
        found = train.pixels[row].float().mean((1, 2))
        assert torch.allclose(found, torch.tensor([red, green, 200.0]), atol=3), row


def test_folder_resized(tmp_path: Path) -> None:
    files.write_folder(tmp_path, size=12)
    (tmp_path / "train" / "cat" / "0.jpg").unlink()
    files.Image.new("RGB", (30, 10), (10, 20, 200)).save(tmp_path / "train" / "cat" / "0.jpg")
    with pytest.raises(UsageError, match=r"must be square, received \(10, 30\).*data\.size=32"):
        folder(tmp_path).read()
    assert folder(tmp_path, size=16).read()[0].pixels.shape == (8, 3, 16, 16)


def test_folder_of_unequal_sizes(tmp_path: Path) -> None:
    files.write_folder(tmp_path, size=12)
    files.Image.new("RGB", (10, 10)).save(tmp_path / "train" / "dog" / "9.jpg")
    with pytest.raises(UsageError, match=r"one size, received \(10, 10\).*9\.jpg.*data\.size=32"):
        folder(tmp_path).read()


def test_folder_with_a_broken_file(tmp_path: Path) -> None:
    files.write_folder(tmp_path)
    (tmp_path / "val" / "dog" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"readable image, received .*0\.jpg"):
        folder(tmp_path).read()


def test_folder_missing_or_with_other_classes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train/<class>/\* and val/<class>/\*"):
        folder(tmp_path / "nowhere").read()
    files.write_folder(tmp_path)
    os.rename(tmp_path / "val" / "dog", tmp_path / "val" / "wolf")
    with pytest.raises(UsageError, match="the same classes"):
        folder(tmp_path).read()
