"""Batches as the Trainer gets them."""

from typing import Any, cast

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from experiments.data import ImageData
from experiments.data.statistics import channel_statistics
from experiments.lightning_manners import quiet
from tests.experiments.sources import digits

PARTS = digits().read()


class Recorder(LightningModule):
    """Keeps what it is given, and uses up randomness as a model with dropout does."""

    def __init__(self, draws: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.draws = draws
        self.batches: dict[str, list[dict[str, torch.Tensor]]] = {"training": [], "test": []}

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        torch.rand(self.draws)
        self.batches["training"].append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        raise AssertionError("limit_val_batches is 0")

    def test_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.batches["test"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(epochs: int) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )


def record(data: ImageData, epochs: int = 1, draws: int = 0) -> Recorder:
    module = Recorder(draws)
    with quiet():
        trainer(epochs).fit(module, data)
    return module


def stacked(module: Recorder, key: str) -> torch.Tensor:
    return torch.cat([batch[key] for batch in module.batches["training"]])


def test_an_epoch_holds_every_row_once_with_its_label() -> None:
    data = ImageData(digits(), seed=0, parts=PARTS)
    module = record(data)
    index, labels = stacked(module, "index"), stacked(module, "label")
    assert sorted(index.tolist()) == list(range(len(PARTS[0])))
    assert index.tolist() != sorted(index.tolist())
    assert torch.equal(labels, PARTS[0].labels[index])
    assert {len(batch["label"]) for batch in module.batches["training"][:-1]} == {16}


def test_classes_can_be_drawn_alike() -> None:
    plain, even = (
        ImageData(digits(imbalance=0.02, class_balanced=balanced), seed=0, parts=PARTS) for balanced in (False, True)
    )
    counts = {data: torch.bincount(stacked(record(data, epochs=10), "label"), minlength=10) for data in (plain, even)}
    assert counts[plain].sum() == counts[even].sum() == 10 * len(plain.train)
    assert counts[plain].min() < 0.05 * counts[plain].max()
    assert counts[even].min() > 0.8 * counts[even].max()  # some 330 of each, give or take 17
    index = stacked(record(ImageData(digits(class_balanced=True), seed=0, parts=PARTS)), "index")
    assert len(index.unique()) < len(index)  # with replacement


def test_images_are_normalised_by_training_statistics() -> None:
    images = stacked(record(ImageData(digits(), seed=0, parts=PARTS)), "image")
    assert images.dtype == torch.float32
    assert images.mean().abs() < 1e-5
    assert abs(images.std(correction=0) - 1) < 1e-5


def test_statistics_equal_the_direct_computation() -> None:
    pixels = torch.randint(0, 256, (50, 3, 9, 9), dtype=torch.uint8)
    pixels[:, 2] = 7
    mean, std = channel_statistics(pixels)
    direct = pixels.double() / 255
    assert torch.allclose(mean.flatten().double(), direct.mean((0, 2, 3)), atol=1e-7)
    assert torch.allclose(std.flatten()[:2].double(), direct.std((0, 2, 3), correction=0)[:2], atol=1e-7)
    assert std[2] == 1


def test_evaluation_is_not_augmented() -> None:
    data, module = ImageData(digits(crop=2, flip=True, cutout=3), seed=0, parts=PARTS), Recorder()
    with quiet():
        trainer(1).test(module, data, verbose=False)
    images = torch.cat([batch["image"] for batch in module.batches["test"]])
    assert torch.allclose(images, (PARTS[1].pixels / 255 - data.mean) / data.std)


def test_order_and_augmentation_follow_the_seed_alone() -> None:
    def images(seed: int, draws: int) -> torch.Tensor:
        data = ImageData(digits(crop=1, flip=True, cutout=2), seed=seed, parts=PARTS)
        return stacked(record(data, epochs=2, draws=draws), "image")

    assert torch.equal(images(0, draws=0), images(0, draws=5))
    assert not torch.equal(images(0, draws=0), images(1, draws=0))


def test_epochs_differ() -> None:
    index = stacked(record(ImageData(digits(), seed=0, parts=PARTS), epochs=2), "index")
    rows = len(PARTS[0])
    assert not torch.equal(index[:rows], index[rows:])


def test_resumed_between_epochs_goes_on(tmp_path: Any) -> None:
    straight = stacked(record(ImageData(digits(crop=1), seed=0, parts=PARTS), epochs=2), "image")
    first = trainer(1)
    with quiet():
        first.fit(Recorder(), ImageData(digits(crop=1), seed=0, parts=PARTS))
        first.save_checkpoint(tmp_path / "one.ckpt")
        module = Recorder()
        trainer(2).fit(module, ImageData(digits(crop=1), seed=0, parts=PARTS), ckpt_path=tmp_path / "one.ckpt")
    assert torch.equal(stacked(module, "image"), straight[len(PARTS[0]) :])


@pytest.mark.parametrize(("drop_last", "batches"), [(False, 79), (True, 78)])
def test_drop_last(drop_last: bool, batches: int) -> None:
    data = ImageData(digits(drop_last=drop_last), seed=0, parts=PARTS)
    assert len(data.train_dataloader()) == batches


def test_on_device_serves_the_same() -> None:
    first, second = (
        stacked(record(ImageData(digits(on_device=where), seed=0, parts=PARTS)), "image") for where in (True, False)
    )
    assert torch.equal(first, second)


def test_one_row_is_what_a_batch_holds() -> None:
    rows = cast(Any, ImageData(digits(), seed=0, parts=PARTS).test_dataloader().dataset)
    assert torch.equal(rows[3]["image"], PARTS[1].pixels[3])
    assert rows[3]["index"] == 3
