"""`python -m experiments.train`, end to end on real digits."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.experiments import files
from tests.experiments.conftest import Command

FIXED = {
    *("data", "model", "selection", "seed", "test_accuracy", "test_loss", "seconds", "candidates_seen"),
    *("examples_scored", "examples_trained", "optimizer_steps", "flops"),
}
SHORT = ("trainer.max_epochs=2", "logger=none", "progress=false")


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_summary_and_curve(application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert application("train", "data=digits", "selection=selective_backprop", "seed=3", "progress=false") == 0
    found = summary(tmp_path / "run")
    assert found.keys() >= FIXED
    assert (found["data"], found["model"], found["selection"], found["seed"]) == (
        *("digits", "mlp", "selective_backprop"),
        3,
    )
    assert 0.93 < found["test_accuracy"] < 1
    assert found["candidates_seen"] == 10 * 1257
    assert 0.5 * 12570 - 10 <= found["examples_trained"] < 0.6 * 12570  # it may warm up for an epoch at most
    assert found["flops"] == (
        found["examples_scored"] * found["flops_forward"] + found["examples_trained"] * found["flops_training"]
    )
    assert found["environment"]["torch"]
    assert found["worst_class_accuracy"] == min(found["class_accuracy"]) < found["test_accuracy"]
    assert 0 < found["calibration_error"] < 0.2
    assert found["command"].endswith("selection=selective_backprop seed=3 progress=false")
    rows = curve(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 11)]
    assert float(rows[-1]["accuracy"]) == pytest.approx(found["test_accuracy"])  # the last epoch, not the best
    assert int(rows[-1]["trained"]) == found["examples_trained"]
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)
    assert (tmp_path / "run" / "log" / "metrics.csv").exists()
    with (tmp_path / "run" / "trained.csv").open(newline="") as file:
        assert sum(int(row["trained"]) for row in csv.DictReader(file)) == found["examples_trained"]
    assert f"{found['test_accuracy']:.4f}" in capsys.readouterr().out


def test_keep_all_equals_uniform_but_in_name(application: Command, tmp_path: Path) -> None:
    for selection in ("uniform", "keep_all"):
        assert application("train", f"selection={selection}", *SHORT, f"hydra.run.dir={tmp_path}/{selection}") == 0
    plain, kept = summary(tmp_path / "uniform"), summary(tmp_path / "keep_all")
    same = FIXED - {"selection", "seconds"}
    assert {key: plain[key] for key in same} == {key: kept[key] for key in same}
    assert plain["examples_scored"] == 0


def test_runs_repeat_and_seeds_differ(application: Command, tmp_path: Path) -> None:
    losses = []
    for number, seed in enumerate((0, 0, 1)):
        arguments = ("selection=selective_backprop", f"seed={seed}", *SHORT)
        assert application("train", *arguments, f"hydra.run.dir={tmp_path}/{number}") == 0
        losses.append(summary(tmp_path / str(number))["test_loss"])
    assert losses[0] == losses[1] != losses[2]


def test_refill_trains_full_batches(application: Command, tmp_path: Path) -> None:
    assert application("train", "selection=selective_backprop_refill", "keep=0.33", *SHORT) == 0
    found = summary(tmp_path / "run")
    assert found["optimizer_steps"] < 0.9 * 40
    assert found["candidates_seen"] == 2 * 1257


def test_sweep(application: Command, tmp_path: Path) -> None:
    sweep = f"hydra.sweep.dir={tmp_path}/sweep"
    arguments = ("-m", "selection=uniform,random_subset", "seed=0,1", "trainer.max_epochs=1", "logger=none", sweep)
    assert application("train", *arguments, "progress=false", "hydra.run.dir=unused") == 0
    found = [summary(tmp_path / "sweep" / str(number)) for number in range(4)]
    assert [(run["selection"], run["seed"]) for run in found] == [
        *(("uniform", 0), ("uniform", 1)),
        *(("random_subset", 0), ("random_subset", 1)),
    ]


def test_images_from_a_folder_through_a_network(application: Command, tmp_path: Path) -> None:
    files.write_folder(tmp_path / "images", size=16, rows=20)
    arguments = ("data=imagefolder", f"data.root={tmp_path}/images", "data.batch_size=8", "data.cutout=4")
    more = ("model=cnn_small", "model.width=4", "selection=selective_backprop", "data.label_noise=0.1", *SHORT)
    assert application("train", *arguments, *more, "channels_last=true", "optimizer=adamw", "schedule=cosine") == 0
    found = summary(tmp_path / "run")
    assert (found["data"], found["model"], found["label_noise"]) == ("imagefolder", "cnn_small", 0.1)
    assert found["train_examples"] == 40
    assert found["candidates_seen"] == 80


def test_validation_split_feeds_the_curve_and_the_test_set_the_result(application: Command, tmp_path: Path) -> None:
    assert application("train", "data.val_fraction=0.2", "logger=tensorboard", *SHORT[::2]) == 0
    found = summary(tmp_path / "run")
    assert found["learning_curve_on"] == "validation split"
    assert found["train_examples"] == 1257 - 251
    assert float(curve(tmp_path / "run")[-1]["loss"]) != pytest.approx(found["test_loss"])
    assert list((tmp_path / "run" / "log").glob("events*"))
