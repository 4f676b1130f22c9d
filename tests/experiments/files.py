"""Small data sets in the formats of the real ones."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

RNG = np.random.default_rng(0)


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_cifar(root: Path, classes: int, monkeypatch: pytest.MonkeyPatch, rows: int = 6) -> dict[str, np.ndarray]:
    """Writes CIFAR's pickled batches; torchvision keeps checking digests, but of these files."""
    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    key, names = ("labels", "label_names") if classes == 10 else ("fine_labels", "fine_label_names")
    folder = root / kind.base_folder
    folder.mkdir()
    pixels = {}

    def batch(name: str) -> list[str]:
        data = RNG.integers(0, 256, (rows, 3072), dtype=np.uint8)
        pixels[name] = data.reshape(rows, 3, 32, 32)  # CIFAR stores plane after plane
        (folder / name).write_bytes(pickle.dumps({"data": data, key: [n % classes for n in range(rows)]}))
        return [name, md5(folder / name)]

    monkeypatch.setattr(kind, "train_list", [batch(name) for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [batch(name) for name, _ in kind.test_list])
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({names: [f"class {n}" for n in range(classes)]}))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "key": names, "md5": md5(meta)})
    return pixels


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Writes SVHN's MATLAB files: pixels [32, 32, 3, N], labels 1 to 10, where 10 stands for the digit 0."""
    lists, pixels = {}, {}
    for split, rows in (("train", 12), ("test", 5), ("extra", 7)):
        file = root / f"{split}_32x32.mat"
        pixels[split] = RNG.integers(0, 256, (32, 32, 3, rows), dtype=np.uint8)
        savemat(file, {"X": pixels[split], "y": (np.arange(rows) % 10 + 1)[:, None].astype(np.uint8)})
        lists[split] = ["unused", file.name, md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    return pixels


def write_folder(root: Path, size: int = 12, rows: int = 4, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    """Writes JPEG files of one colour each, by class: `train` gets `rows` for each class, `val` half of them."""
    for part, count in (("train", rows), ("val", rows // 2)):
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for row in range(count):
                colour = (60 * label + 10, 10 * row + 20, 200)
                Image.new("RGB", (size, size), colour).save(folder / f"{row}.jpg", quality=95)
