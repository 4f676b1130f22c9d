"""The settings of the Selective-Backprop paper, on small files in the formats of its data sets."""

import csv
import json
from pathlib import Path

import pytest
import torch
from hydra import compose
from omegaconf import DictConfig

from experiments.build import build
from tests.experiments.conftest import CONF, Command
from tests.experiments.files import write_cifar, write_svhn

PAPERS = {"paper_cifar10": "cifar10", "paper_cifar100": "cifar100", "paper_svhn": "svhn"}
NETWORKS = ["resnet18", "densenet", "mobilenet_v2"]
SMALL = ("model.depth=10", "model.widen=1", "trainer.limit_train_batches=2", "data.batch_size=3", "logger=none")
ARMS = ["uniform", "random_subset", "selective_backprop_refill", "selective_backprop_stale"]


def write(data: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if data == "svhn":
        write_svhn(root, monkeypatch)
    else:
        write_cifar(root, int(data.removeprefix("cifar")), monkeypatch)
    return f"data.root={root}"


def composed(paper: str, *more: str, application: str = "train") -> DictConfig:
    return compose(application, [f"experiment={paper}", "out=somewhere", *more], return_hydra_config=True)


@pytest.mark.parametrize("paper", PAPERS)
def test_a_comparison(application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paper: str) -> None:
    root = write(PAPERS[paper], tmp_path, monkeypatch)
    assert application("compare", f"experiment={paper}", root, *SMALL, "budget=6", "seeds=1") == 0
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["selection"] for row in rows] == ARMS
    assert {row["data"] for row in rows} == {PAPERS[paper]}
    fewest = {row["selection"]: int(row["examples_trained"]) / int(row["optimizer_steps"]) for row in rows}
    assert all(rows_of_step == 3 for rows_of_step in fewest.values()), "every arm trains full batches"
    keep = {"paper_cifar10": "0.33", "paper_cifar100": "0.5", "paper_svhn": "0.25"}[paper]
    assert {row["keep"] for row in rows} == {keep}
    assert rows[0]["train_examples"] == {"paper_cifar10": "30", "paper_cifar100": "6", "paper_svhn": "19"}[paper]


def test_a_cell_is_what_train_would_do(application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write("cifar10", tmp_path, monkeypatch)
    asked = ("experiment=paper_cifar10", root, *SMALL, "budget=1", "seeds=1", "selections=selective_backprop_refill")
    assert application("compare", *asked) == 0
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert application("train", *row["command"].split()[3:], f"hydra.run.dir={tmp_path}/alone") == 0
    assert str(json.loads((tmp_path / "alone" / "summary.json").read_text())["test_loss"]) == row["test_loss"]


@pytest.mark.parametrize("network", NETWORKS)
def test_other_networks(application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    root = write("cifar10", tmp_path, monkeypatch)
    small = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "data.batch_size=2", "logger=none"]
    small += {"resnet18": ["model.width=8"], "densenet": ["model.growth=4"]}.get(network, [])
    assert application("train", f"experiment=paper_cifar10_{network}", root, *small) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["model"], summary["schedule"], summary["keep"]) == (network, "constant", 0.33)


@pytest.mark.usefixtures("composing")
@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_can_be_swapped_everywhere(paper: str, network: str) -> None:
    config = composed(paper, f"model={network}", "keep=0.4")
    assert config.hydra.runtime.choices.model == network
    assert config.keep == 0.4
    with torch.device("meta"):
        build(config, "model", channels=3, size=32, classes=10)


@pytest.mark.usefixtures("composing")
@pytest.mark.parametrize(
    ("paper", "millions", "cutout", "rates"),
    [
        ("paper_cifar10", 36.5, 16, {0: 1, 59: 1, 60: 0.2, 120: 0.04, 160: 0.008, 199: 0.008}),
        ("paper_cifar100", 36.5, 8, {0: 1, 59: 1, 60: 0.1, 119: 0.1, 120: 0.01, 199: 0.01}),
        ("paper_svhn", 11.0, 20, {0: 1, 59: 1, 60: 0.1, 119: 0.1, 120: 0.01, 199: 0.01}),
    ],
)
def test_the_settings_are_the_paper_s(paper: str, millions: float, cutout: int, rates: dict[int, float]) -> None:
    config = composed(paper)
    with torch.device("meta"):
        net = build(config, "model", channels=3, size=32, classes=10)
    assert sum(parameter.numel() for parameter in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    schedule, epochs = build(config, "schedule"), config.trainer.max_epochs
    assert {epoch: pytest.approx(schedule(epoch / epochs)) for epoch in rates} == rates
    optimizer, data = config.optimizer, config.data
    assert (optimizer.lr, optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.1, 0.9, True, 5e-4)
    assert (epochs, data.batch_size, data.cutout) == (200, 128, cutout)


@pytest.mark.usefixtures("composing")
def test_a_command_line_goes_before_an_experiment() -> None:
    asked = ("selections=[uniform]", "units=[trained]", "schedule=cosine", "trainer.max_epochs=7")
    config = composed("paper_cifar10", *asked, application="compare")
    assert (config.selections, config.units, config.budget) == (["uniform"], ["trained"], 7)
    assert config.hydra.runtime.choices.schedule == "cosine"


def test_every_experiment_of_a_paper_is_tried_here() -> None:
    found = {file.stem for file in (CONF / "experiment").glob("paper*.yaml")}
    assert found == {*PAPERS, *(f"paper_cifar10_{network}" for network in NETWORKS)}
