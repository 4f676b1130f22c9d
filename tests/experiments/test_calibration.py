"""What reference time charges: measured once, in turns, and the same for every run of a comparison."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose

from experiments.budgets import calibrated
from experiments.calibration import Calibration, calibrate
from experiments.calibration.calibration import scoring_pieces
from experiments.calibration.workbench import Workbench
from experiments.data import ImageData
from litselect.callbacks import ExampleSelection
from litselect.scoring import ScoringPass
from litselect.selectors import TopLoss
from tests.experiments.conftest import Command
from tests.experiments.sources import digits

PARTS = digits().read()
PASS = "score ScoringPass('eval')"


def config(*overrides: str) -> Any:
    return compose("train", ["data=digits", "model.width=8", "threads=1", "out=''", *overrides])


def data(**changes: Any) -> ImageData:
    return ImageData(digits(batch_size=64, **changes), seed=0, parts=PARTS)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[calibrate.__module__], "ROUNDS", 2)


@pytest.mark.usefixtures("composing", "quick")
def test_pieces_are_measured_at_several_sizes_and_never_twice() -> None:
    calibration = Calibration()
    assert calibrate(calibration, config(), data(), [ScoringPass()])
    assert calibration.pieces.keys() == {"train", "load", "select", PASS}
    for points in calibration.pieces.values():
        assert sorted(points) == [8, 16, 24, 32, 48, 64]
        assert list(dict(sorted(points.items())).values()) == sorted(points.values())  # more rows never cost less
        assert min(points.values()) >= 0
    known = json.dumps(calibration.pieces)
    assert not calibrate(calibration, config(), data(), [ScoringPass()])
    assert json.dumps(calibration.pieces) == known
    assert calibrate(calibration, config(), data(), [ScoringPass(precision="bf16")])
    assert calibrate(calibration, config("data.candidates=128"), data(candidates=128), [ScoringPass()])
    assert 128 in calibration.pieces["train"]


@pytest.mark.usefixtures("composing", "quick")
def test_measuring_leaves_the_runs_random_streams_alone() -> None:
    rows, state = data(), torch.get_rng_state()
    order = rows.order.get_state()
    calibrate(Calibration(), config(), rows, [])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(rows.order.get_state(), order)
    assert rows.augmentation is None
    assert rows.trainer is None


@pytest.mark.usefixtures("composing")
def test_prices_that_hold_do_not_move_when_others_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have ended at them, and would not repeat."""

    def in_turns(_: Any, calls: Any, __: Any) -> Any:
        return 1.0, {(name, rows): rows / 100 for name, rows in calls}  # 80 rows take less than a step at its price

    monkeypatch.setattr(sys.modules[calibrate.__module__], "_in_turns", in_turns)
    calibration = Calibration()
    calibrate(calibration, config(), data(), [ScoringPass()])
    train = calibration.pieces["train"]
    train[32], train[64] = 1e3, 2e3  # far more than what is to come: a fit of all points would pull them down
    known = dict(train)
    calibrate(calibration, config("data.candidates=80"), data(candidates=80), [ScoringPass()])
    train = calibration.pieces["train"]
    assert {size: train[size] for size in known} == known
    assert train[80] == 2e3  # more rows never cost less
    assert train[24] <= train[30] <= train[32]
    assert list(train) == sorted(train)


@pytest.mark.usefixtures("composing", "quick")
def test_a_calibration_of_something_else_is_made_anew(tmp_path: Path) -> None:
    def identity(code: str | None = None) -> str:
        found = calibrated(config("unit=reference"), data(), [], file, code)
        assert found is not None
        return found.identity

    file = tmp_path / "calibration.json"
    first = identity("one")
    assert identity("one") == identity() == first
    other_code = identity("two")
    assert other_code != first
    for part, name, value in (
        ("settings", "image", [3, 64, 64]),
        ("machine", "torch", "1.0"),
        ("settings", "classes", 2),
    ):
        before, content = identity(), json.loads(file.read_text())
        content[part][name] = value
        file.write_text(json.dumps(content))
        assert identity() != before


@pytest.mark.usefixtures("composing")
def test_a_step_trains_and_a_pass_does_not() -> None:
    bench = Workbench(config(), data())
    before = [parameter.clone() for parameter in bench._net.parameters()]
    bench.score(ScoringPass())(32)()
    assert all(torch.equal(old, new) for old, new in zip(before, bench._net.parameters(), strict=True))
    bench.train(32)()
    assert not any(torch.equal(old, new) for old, new in zip(before, bench._net.parameters(), strict=True))


def test_a_slow_machine_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios to the step of the same round count."""
    now, pace = [0.0], [1.0]

    def work(units: float) -> Any:
        def call() -> None:
            now[0] += units * pace[0]
            pace[0] *= 1.01  # slower all the time

        return call

    in_turns = sys.modules[calibrate.__module__]._in_turns  # the package shows the function under the module's name
    _, ratios = in_turns(work(1.0), {("half", 1): work(0.5)}, lambda: now[0])
    assert ratios["half", 1] == pytest.approx(0.5, rel=0.02)


def test_the_file_says_all_and_identity_outlives_additions(tmp_path: Path) -> None:
    calibration = Calibration({"train": {8: 0.1}, "load": {8: 0.01}}, {"precision": "32-true"}, {"hardware": "x"})
    calibration.write(tmp_path / "new" / "calibration.json")
    read = Calibration.read(tmp_path / "new" / "calibration.json")
    assert read == calibration
    read.pieces["select"] = {8: 0.001}
    read.write(tmp_path / "new" / "calibration.json")
    assert read.identity == calibration.identity
    other = Calibration({"train": {8: 0.2}})
    other.write(tmp_path / "other.json")
    assert other.identity != calibration.identity
    assert Calibration.read(tmp_path / "none.json").pieces == {}


def test_prices_of_a_selection_and_of_a_free_one() -> None:
    calibration = Calibration(
        {
            "train": {8: 0.1},
            "load": {8: 0.01},
            "select": {8: 0.001},
            PASS: {8: 0.03},
            "score ScoringPass('train')": {8: 0.04},
        }
    )
    selection = ExampleSelection(TopLoss(keep=0.5), scoring=ScoringPass("train"))
    assert calibration.prices(selection, free=False).kinds.keys() == {"train", "load", "select", "score"}
    assert calibration.prices(selection, free=False).kinds["score"].of(8) == 0.04
    assert calibration.prices(selection, free=True).kinds.keys() == {"train", "load"}
    assert calibration.prices(None, free=False).kinds.keys() == {"train", "load"}
    assert calibration.uniform(20, 8) == pytest.approx(2 * 0.11 + 0.055)


def test_a_proxy_has_two_pieces() -> None:
    net = torch.nn.Linear(2, 2)
    scoring = ScoringPass(proxy=net, proxy_optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    assert list(scoring_pieces(scoring)) == ["score", "proxy"]
    wider = ScoringPass(proxy=torch.nn.Linear(2, 3))
    assert scoring_pieces(wider)["score"] != scoring_pieces(scoring)["score"]  # another network, another price
    assert list(scoring_pieces(ScoringPass())) == ["score"]


REFERENCE = (
    "selections=[uniform,'random_subset keep=0.25 data.candidates=128',selective_backprop_pass]",
    "units=[reference]",
    "seeds=1",
    "trainer.limit_train_batches=6",
    "logger=none",
    "threads=1",
)


@pytest.mark.usefixtures("quick")
def test_a_comparison_in_reference_time_repeats_exactly(application: Command, tmp_path: Path) -> None:
    ask = (*REFERENCE, "budget=2", "uniform_budget=[3]")
    assert application("compare", *ask) == 0
    folder = tmp_path / "run"
    with (folder / "results.csv").open(newline="") as file:
        first = list(csv.DictReader(file))
    assert [(row["arm"], row["budget_epochs"]) for row in first] == [
        ("uniform", "2"),
        ("random_subset keep=0.25 data.candidates=128", "2"),
        ("selective_backprop_pass", "2"),
        ("uniform", "3"),
    ]
    spent = [float(row["reference_seconds"]) / float(row["reference_epoch_seconds"]) for row in first]
    (calibration,) = (folder / "cells").glob("calibration-*.json")
    dearest = sum(max(price.values()) for price in json.loads(calibration.read_text())["pieces"].values())
    batch = dearest / float(first[0]["reference_epoch_seconds"])
    # Spent to the end but for rounding (a sum of prices), and no further than a batch.
    assert all(-1e-9 < epochs - budget < batch for epochs, budget in zip(spent, (2, 2, 2, 3), strict=True))
    for cell in (folder / "cells").glob("*/summary.json"):
        cell.unlink()
    assert application("compare", *ask) == 0
    with (folder / "results.csv").open(newline="") as file:
        again = list(csv.DictReader(file))
    same = ("arm", "test_accuracy", "reference_seconds", "examples_trained")
    assert [[row[key] for key in same] for row in again] == [[row[key] for key in same] for row in first]


@pytest.mark.usefixtures("quick")
def test_other_prices_are_another_result(
    application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("selections=[uniform]", *REFERENCE[1:], "budget=1")
    assert application("compare", *ask) == 0
    assert application("compare", *ask) == 0
    assert "1 of 1 runs are finished already" in capsys.readouterr().out
    (calibration,) = (tmp_path / "run" / "cells").glob("calibration-*.json")
    calibration.unlink()
    assert application("compare", *ask) == 0
    assert "finished already" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("'top_loss seed=3'", "an arm is an option of selections and settings of its own"),
        ("'top_loss keep'", "an arm is an option of selections and settings of its own"),
        ("'top_loss data.batch_size=32'", "an arm is an option of selections and settings of its own"),
        ("top_loss,{a: random_subset},{a: uniform}", "arms need names of their own"),
        ("{plain: uniform}", "arms need names of their own"),
        ("{a: top_loss},{b: top_loss}", "an arm has one name, received several for top_loss"),
        ("'uniform data.heldout_fraction=0.5'", "which may not be"),
        ("'uniform data.imbalance=0.1'", "which may not be"),
        ("'uniform data=cifar10'", "which may not be"),
        ("'bottom_loss keep=0.5'", "selections must be all, one or more of"),
    ],
)
def test_arms_that_are_none(application: Command, capsys: pytest.CaptureFixture[str], arm: str, message: str) -> None:
    assert application("compare", f"selections=[{arm}]", "seeds=1", "logger=none") == 2
    assert message in capsys.readouterr().err
