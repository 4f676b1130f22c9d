"""`python -m experiments.irreducible_loss`: what it computes, what it cost, and who may use it."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose
from pytorch_lightning import LightningModule
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from experiments.callbacks import Cost, Tally
from experiments.data import ImageData
from experiments.errors import UsageError
from experiments.irreducible import Table, making, table_of
from experiments.irreducible.lowest_loss import LowestLoss
from experiments.irreducible.table import write_table
from litselect.callbacks import ExampleSelection
from litselect.selectors import Mixture, ReducibleLoss, TopLoss
from tests.experiments.conftest import Command
from tests.experiments.sources import digits

PARTS = digits().read()
ROWS = len(PARTS[0])
NOISY = digits(label_noise=0.2)


def read(path: Path) -> tuple[torch.Tensor, dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("irreducible"), file.metadata()


def separation(losses: torch.Tensor, data: ImageData) -> float:
    """How often a wrong label has a higher irreducible loss than a right one."""
    wrong = data.true_labels != data.train.labels
    assert wrong.float().mean() == pytest.approx(0.2, abs=0.001)
    return float((losses[wrong][:, None] > losses[~wrong][None]).float().mean())


def test_cross_fitted_losses_tell_wrong_labels_and_say_what_they_cost(
    application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("data.label_noise=0.2", "cross_fit=true", "trainer.max_epochs=4", "progress=false")
    assert application("irreducible_loss", *arguments) == 0
    losses, facts = read(tmp_path / "run" / "irreducible.safetensors")
    assert separation(losses, ImageData(NOISY, seed=0, parts=PARTS)) > 0.97
    cost = json.loads(facts["cost"])
    # each model is trained on its half, and looks at the other after every epoch
    assert cost["tally"] == {"seen": 8 * ROWS, "scored": 4 * ROWS, "trained": 4 * ROWS, "steps": 2 * 4 * 10}
    forward, training = 2 * (64 * 128 + 128 * 128 + 128 * 10), 2 * (2 * 64 * 128 + 3 * 128 * 128 + 3 * 128 * 10)
    assert cost["flops"] == 4 * ROWS * (forward + training)
    assert cost["seconds"] > 0
    assert "cross_fit=true" in facts["command"]
    assert f"{4 * ROWS} rows trained in 80 steps" in capsys.readouterr().out


def test_a_held_out_part_scores_the_rest(application: Command, tmp_path: Path) -> None:
    arguments = ("data.label_noise=0.2", "data.val_fraction=0.4", "trainer.max_epochs=4", "progress=false")
    assert application("irreducible_loss", *arguments) == 0
    losses, facts = read(tmp_path / "run" / "irreducible.safetensors")
    data = ImageData(digits(label_noise=0.2, val_fraction=0.4), seed=0, parts=PARTS)
    assert len(losses) == len(data.train) == ROWS - len(data.curve)
    assert separation(losses, data) > 0.95
    assert json.loads(facts["cost"])["tally"]["trained"] == 4 * len(data.curve)


def test_rows_that_are_set_aside_come_first_and_as_they_are(application: Command, tmp_path: Path) -> None:
    data = ImageData(digits(label_noise=0.2, val_fraction=0.2, heldout_fraction=0.1), seed=0, parts=PARTS)
    ((images, rows),) = making._held_out(data)
    assert images is data.heldout
    assert torch.equal(rows, torch.arange(len(data.train)))
    # a small part is trained for more epochs, until a quarter of a training's rows have been
    arguments = ("data.label_noise=0.2", "data.heldout_fraction=0.05", "trainer.max_epochs=4", "progress=false")
    assert application("irreducible_loss", *arguments) == 0
    losses, facts = read(tmp_path / "run" / "irreducible.safetensors")
    tally = json.loads(facts["cost"])["tally"]
    assert tally["trained"] == pytest.approx(len(losses), rel=0.06)  # 4 epochs, a quarter
    assert tally["scored"] <= 5 * len(losses)


def test_the_held_out_part_is_as_noisy_as_the_rest() -> None:
    data = ImageData(digits(label_noise=0.2, val_fraction=0.4), seed=0, parts=PARTS)
    ((images, rows),) = making._held_out(data)
    assert (images.labels != data.curve.labels).float().mean() == pytest.approx(0.2, abs=0.001)
    assert torch.equal(rows, torch.arange(len(data.train)))


@pytest.mark.parametrize("duplicates", [1, 3])
def test_no_half_holds_an_example_that_it_scores(duplicates: int) -> None:
    data = ImageData(digits(duplicates=duplicates), seed=0, parts=PARTS)
    first, second = making._halves(data, seed=0)
    scored = torch.cat([first[1], second[1]])
    assert scored.sort().values.tolist() == list(range(ROWS))
    for (images, rows), (_, trained) in ((first, second), (second, first)):
        assert torch.equal(images.pixels, data.train.pixels[trained])
        assert not set(data.example[rows].tolist()) & set(data.example[trained].tolist())
        assert len(rows) == pytest.approx(ROWS / 2, abs=duplicates)


def test_rows_dealt_out_one_by_one_would_share_examples() -> None:
    data = ImageData(digits(duplicates=3), seed=0, parts=PARTS)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    assert set(data.example[order[: ROWS // 2]].tolist()) & set(data.example[order[ROWS // 2 :]].tolist())


@pytest.mark.usefixtures("composing")
def test_making_a_table_leaves_random_streams_alone(tmp_path: Path) -> None:
    config = compose("train", ["out=unused", "trainer.max_epochs=1"])

    def draws() -> list[float]:
        return [float(torch.rand(1)), random.random(), float(np.random.rand())]  # noqa: NPY002 - the global stream

    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    making.make_table(config, tmp_path / "table.safetensors", PARTS)
    after = draws()
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002
    assert after == draws()


class Sure(LightningModule):
    """Predicts class 0, more or less sure of it."""

    logit = 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return F.one_hot(torch.zeros(len(images), dtype=torch.int64), 10) * self.logit


def test_the_epoch_of_lowest_loss_counts() -> None:
    from pytorch_lightning.plugins import Precision

    unseen = PARTS[0].rows(torch.arange(700))
    module, callback = Sure(), LowestLoss(ImageData(digits(), seed=0, parts=PARTS), unseen)
    trainer: Any = SimpleNamespace(precision_plugin=Precision(), current_epoch=0, max_epochs=3)
    losses = []
    for module.logit in (5.0, 0.5, 9.0):  # 0.5 is nearest to the share of zeros, a tenth
        callback.on_train_epoch_end(trainer, module)
        logits = torch.zeros(700, 10)
        logits[:, 0] = module.logit
        losses.append(F.cross_entropy(logits, unseen.labels, reduction="none"))
    assert torch.allclose(callback.losses, losses[1])
    assert losses[1].mean() < losses[2].mean()  # the last
    assert callback.scored == 2100
    assert module.training


def test_the_epoch_of_most_agreement_counts_where_only_the_order_does() -> None:
    from pytorch_lightning.plugins import Precision

    unseen = PARTS[0].rows((PARTS[0].labels != 1).nonzero().squeeze(1)[:700])  # 1 is predicted instead of 0
    data = ImageData(digits(), seed=0, parts=PARTS)
    module, callback = Sure(), LowestLoss(data, unseen, every=2, by_accuracy=True)
    for epoch, module.logit in enumerate((-9.0, 9.0, -0.1, -0.2, -0.3)):  # only above 0 is class 0 predicted
        trainer: Any = SimpleNamespace(precision_plugin=Precision(), current_epoch=epoch, max_epochs=5)
        callback.on_train_epoch_end(trainer, module)
    assert callback.scored == 3 * 700  # after epochs 2, 4 and, being the last, 5
    assert callback.losses.mean() > 7  # it was sure, mostly wrong, and agreed most


def test_a_table_must_be_of_this_training_set_and_say_what_it_cost(tmp_path: Path) -> None:
    data, cost = ImageData(NOISY, seed=0, parts=PARTS), Cost(Tally(4, 3, 2, 1), 5.0, 6.0, 7)
    path = tmp_path / "good.safetensors"
    write_table(path, torch.arange(3.0), cost, data.fingerprint(), {})
    table = Table(str(path))
    assert table.cost(data.fingerprint()) == cost
    assert table(torch.tensor([2, 0])).tolist() == [2, 0]
    for other in (digits(), digits(label_noise=0.2, corruption_seed=1), digits(label_noise=0.2, duplicates=2)):
        with pytest.raises(UsageError, match=r"belong to the training set, received .*good"):
            table.cost(ImageData(other, seed=0, parts=PARTS).fingerprint())
    assert ImageData(NOISY, seed=5, parts=PARTS).fingerprint() == data.fingerprint()
    save_file({"irreducible": torch.zeros(3)}, tmp_path / "free.safetensors")
    with pytest.raises(UsageError, match="must say what it cost"):
        Table(str(tmp_path / "free.safetensors")).cost(data.fingerprint())
    with pytest.raises(UsageError, match=r"received .*nowhere; make one"):
        Table(str(tmp_path / "nowhere")).cost("")
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(UsageError, match="must be a safetensors file"):
        Table(str(tmp_path / "junk")).cost("")


def test_tables_are_found_in_wrappers_and_uncharged_losses_refused() -> None:
    table = Table(None)
    assert table_of(ExampleSelection(ReducibleLoss(0.5, table))) is table
    assert table_of(ExampleSelection(Mixture(ReducibleLoss(0.5, table)))) is table
    assert table_of(ExampleSelection(TopLoss(0.5))) is table_of(None) is None
    with pytest.raises(UsageError, match="says what it cost"):
        table_of(ExampleSelection(ReducibleLoss(0.5, torch.zeros(3))))


def test_refused(application: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [
        ((), "received data.val_fraction=0.0; set it"),
        (("cross_fit=true", "selection=top_loss"), "received selection=top_loss; leave it out"),
        (("cross_fit=true", "data.drop_last=true", "data.batch_size=700"), "set data.drop_last=false"),
    ]:
        assert application("irreducible_loss", *arguments) == 2
        assert message in capsys.readouterr().err


RUN = ("selection=reducible_loss", "trainer.max_epochs=2", "logger=none", "progress=false")


def test_a_run_without_a_table_makes_one_and_pays_for_it(application: Command, tmp_path: Path) -> None:
    assert application("train", *RUN) == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    made = Cost.from_json(read(tmp_path / "run" / "irreducible.safetensors")[1]["cost"])
    assert made.tally.trained == found["table_examples_trained"] == 2 * ROWS
    assert found["examples_trained"] == pytest.approx(3 * ROWS, abs=2)
    assert found["examples_scored"] == made.tally.scored + 2 * ROWS
    assert found["candidates_seen"] == made.tally.seen + 2 * ROWS
    assert found["seconds"] > found["table_seconds"] == made.seconds
    own = ROWS * found["flops_training"] + 2 * ROWS * found["flops_forward"]
    assert found["flops"] == pytest.approx(made.flops + own, rel=1e-3)
    curve = (tmp_path / "run" / "curve.csv").read_text().splitlines()
    assert int(curve[1].split(",")[3]) > 2 * ROWS  # it begins where the table ends
    # with the table at hand, the run is the same and so is what it is charged
    table = f"table={tmp_path}/run/irreducible.safetensors"
    assert application("train", *RUN, table, f"hydra.run.dir={tmp_path}/again") == 0
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    for key in ("test_loss", "examples_trained", "examples_scored", "flops", "table_seconds"):
        assert again[key] == found[key]
    assert not (tmp_path / "again" / "irreducible.safetensors").exists()


def test_a_comparison_makes_one_table_for_each_seed(
    application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments import run

    made: list[Path] = []

    def noted(config: Any, path: Path, *rest: Any, **named: Any) -> Cost:
        made.append(path)
        return making.make_table(config, path, *rest, **named)

    monkeypatch.setattr(run, "make_table", noted)
    arguments = ("selections=[uniform,reducible_loss]", "seeds=2", "budget=1", "logger=none")
    assert application("compare", *arguments) == 0
    assert len(made) == len(set(made)) == 2
    text = (tmp_path / "run" / "report.md").read_text()
    assert "charged for its table" in text


def test_a_table_of_other_data_is_refused_before_training(
    application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("cross_fit=true", "trainer.max_epochs=1", "progress=false")
    assert application("irreducible_loss", *arguments) == 0
    table = f"table={tmp_path}/run/irreducible.safetensors"
    assert application("train", *RUN, table, "data.label_noise=0.1") == 2
    assert "must belong to the training set" in capsys.readouterr().err
