"""The record of what was trained: right, and without any trace in training."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from experiments.callbacks import Meter, TrainedRows
from experiments.callbacks.trained_rows import QUANTILES
from experiments.classifier import Classifier
from experiments.data import ImageData
from experiments.lightning_manners import quiet
from experiments.models import Mlp
from litselect.callbacks import DataRater, ExampleSelection, SelectiveBackprop
from litselect.selectors import RandomSubset, TopLoss
from tests.experiments.sources import digits

PARTS = digits().read()
BATCHES = 6


class Trained(Callback):
    """Remembers the labels that `training_step` got, and its loss."""

    def __init__(self) -> None:
        self.labels: list[list[int]] = []
        self.losses: list[float] = []
        self._newest: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = pl_module.training_step

        def watched(batch: Any, batch_idx: int) -> Any:
            self._newest = batch["label"]
            return step(batch, batch_idx)

        pl_module.training_step = watched  # type: ignore[method-assign]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        self.labels.append(self._newest.tolist())
        self.losses.append(float(loss.detach()))


def train(selection: Callback | None, folder: Path | None, *more: Callback, dropout: float = 0.1) -> Classifier:
    seed_everything(0, verbose=False)
    data = ImageData(digits(batch_size=32, flip=True), seed=0, parts=PARTS)
    net = Mlp(channels=1, size=8, classes=10, width=16, depth=1, dropout=dropout)
    module = Classifier(net, lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.9), False)
    meter = Meter(selection)
    recorder = [] if folder is None else [TrainedRows(folder, meter)]
    trainer = Trainer(
        max_epochs=2,
        limit_train_batches=BATCHES,
        limit_val_batches=1,
        accelerator="cpu",
        callbacks=[*filter(None, [selection]), meter, *recorder, *more],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with quiet():
        trainer.fit(module, data)
    return module


def recorded(folder: Path) -> list[dict[str, str]]:
    with (folder / "trained.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def quantiles(row: dict[str, str], name: str) -> list[float]:
    return [float(row[f"{name}_loss_p{round(100 * at):02}"]) for at in QUANTILES]


SELECTIONS: dict[str, Any] = {
    "uniform": lambda: None,
    "random": lambda: ExampleSelection(RandomSubset(keep=0.5)),
    "top": lambda: ExampleSelection(TopLoss(keep=0.25)),
    "reused": lambda: ExampleSelection(TopLoss(keep=0.25), reuse_forward=True),
    "refill": lambda: SelectiveBackprop(keep=0.4, refill=True),
    "ledger": lambda: SelectiveBackprop(keep=0.4, scoring="ledger", floor=0.1),
    "rater": lambda: DataRater(keep=0.5, every=2, heldout=0.2),
}


@pytest.mark.parametrize("name", ["uniform", "top", "reused", "refill", "ledger", "rater"])
def test_training_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    plain, streams = train(SELECTIONS[name](), None), (torch.rand(1), np.random.rand())  # noqa: NPY002
    watched = train(SELECTIONS[name](), tmp_path)
    assert (torch.rand(1), np.random.rand()) == streams  # noqa: NPY002
    for before, after in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(before, after)
    assert watched.heard is None
    assert len(recorded(tmp_path)) == 2


@pytest.mark.parametrize("name", ["uniform", "reused", "refill", "ledger"])
def test_rows_that_went_backward_are_counted_by_class(name: str, tmp_path: Path) -> None:
    trained = Trained()
    selection = SELECTIONS[name]()
    train(selection, tmp_path, trained)
    rows = recorded(tmp_path)
    everything = np.bincount([label for labels in trained.labels for label in labels], minlength=10).tolist()
    assert [sum(int(row[f"class_{label}"]) for row in rows) for label in range(10)] == everything
    assert sum(int(row["trained"]) for row in rows) == sum(everything)
    assert [int(row["seen"]) for row in rows] == [32 * BATCHES] * 2
    if selection is not None:
        assert sum(everything) == selection.counters.trained < 2 * 32 * BATCHES


def test_losses_of_plain_training_are_those_of_its_steps(tmp_path: Path) -> None:
    train(None, tmp_path, trained := Trained())
    for row, losses in zip(recorded(tmp_path), (trained.losses[:BATCHES], trained.losses[BATCHES:]), strict=True):
        found = quantiles(row, "trained")
        assert found == sorted(found)
        assert quantiles(row, "seen") == found
        assert row["seen_losses_from"] == "training"
        assert found[0] < np.mean(losses) < found[-1]


def test_losses_of_candidates_where_they_are_known(tmp_path: Path) -> None:
    origins = {}
    for name in ("top", "ledger", "random"):
        (tmp_path / name).mkdir()
        train(SELECTIONS[name](), tmp_path / name, dropout=0.0)
        origins[name] = [row["seen_losses_from"] for row in recorded(tmp_path / name)]
    assert origins == {"top": ["scoring"] * 2, "ledger": ["training", "ledger"], "random": ["", ""]}
    row = recorded(tmp_path / "top")[0]
    # of the highest quarter of each batch, the lower end lies about where that of all has its third quartile
    assert quantiles(row, "trained")[0] > quantiles(row, "seen")[2]
    assert quantiles(row, "trained")[-1] == pytest.approx(quantiles(row, "seen")[-1], rel=0.2)
    assert recorded(tmp_path / "random")[0]["seen_loss_p50"] == ""


def test_quantiles_are_those_of_numpy() -> None:
    from experiments.callbacks.trained_rows import _quantiles

    losses = torch.tensor([3.0, 1.0, 2.0, 10.0])
    assert list(_quantiles("x", losses).values()) == pytest.approx(np.quantile(losses.numpy(), QUANTILES).tolist())
