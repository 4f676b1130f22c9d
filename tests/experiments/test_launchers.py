"""Comparisons whose cells Hydra's launchers spread over processes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.core.plugins import Plugins
from hydra.types import HydraContext

from experiments import launch, spread
from experiments.cell import CODE, Cell, rater_folder, table_file
from experiments.errors import UsageError
from experiments.request import Request
from experiments.runner import Runner
from tests.experiments.conftest import Command

SMALL = ("budget=1", "trainer.limit_train_batches=3", "logger=none")
SHARING = ("selections=[uniform,reducible_loss]", "seeds=1", *SMALL)
TIMES = ("seconds", "environment")  # the latter names the threads that a process was given


def summaries(folder: Path) -> dict[str, dict[str, Any]]:
    """What each cell measured, apart from times, by the name of its folder."""
    found = {file.parent.name: json.loads(file.read_text()) for file in folder.glob("cells/*/summary.json")}
    return {
        cell: {key: value for key, value in summary.items() if not key.endswith(TIMES)}
        for cell, summary in found.items()
    }


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's basic launcher is treated like one that spreads, so that a test can reach into the jobs."""
    monkeypatch.setattr(launch, "chosen", lambda _: "another")


def test_joblib_gives_what_one_process_gives(application: Command, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    alone, spread_out = tmp_path / "alone", tmp_path / "it's spread"
    assert application("compare", *SHARING, f"hydra.run.dir={alone}") == 0
    quoted = str(spread_out).replace("'", "\\'")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.run.dir='{quoted}'")
    assert application("compare", *SHARING, *joblib) == 0
    assert len(summaries(alone)) == 3  # uniform serves both budgets
    assert summaries(spread_out) == summaries(alone)
    seals = [{file.read_text() for file in folder.glob(f"cells/*/{CODE}")} for folder in (alone, spread_out)]
    assert seals[0] == seals[1]
    assert len(seals[0]) == 1
    assert len(list(spread_out.glob("cells/*.safetensors"))) == 1  # made once, used twice
    assert len((spread_out / "results.csv").read_text().splitlines()) == 5


def test_submitit(application: Command, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    small = ("selections=uniform", "seeds=1", "units=candidates", *SMALL)
    assert application("compare", *small, "hydra/launcher=submitit_local") == 0
    assert len(summaries(tmp_path / "run")) == 1


@pytest.mark.usefixtures("composing")
def test_slurm_composes() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    asked = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "out=somewhere"]
    config = compose("compare", asked, return_hydra_config=True)
    context = HydraContext(None, None)  # type: ignore[arg-type] - asked for nothing before a launch
    launcher = Plugins.instance().instantiate_launcher(context, lambda _: None, config)
    assert type(launcher).__name__ == "SlurmLauncher"
    assert config.hydra.launcher.timeout_min > 60
    assert config.hydra.launcher.partition == "gpu"


@pytest.mark.usefixtures("composing")
def test_who_makes_what_is_shared_goes_first(tmp_path: Path) -> None:
    def asked(arm: str, seed: int = 0, unit: str = "candidates", *more: str) -> Request:
        request = Cell(arm, unit, 2, seed).request(["out=x", *more], tmp_path)
        own = {"shared_table": table_file(request, "code"), "shared_rater": rater_folder(request, "code")}
        return Request(request.config, request.choices, request.overrides, request.out, **own)

    makers = [asked("uniform"), asked("reducible_loss"), asked("rated"), asked("reducible_loss", 1)]
    users = [asked("reducible_loss", 0, "trained"), asked("datarater_paper"), asked("rated", 0, "trained")]
    others = [asked("random_subset"), asked("uniform", 1)]
    plan = [makers[0], others[0], makers[1], users[0], makers[2], *users[1:], makers[3], others[1]]
    first, then = spread.waves(plan)
    assert first == [request for request in plan if request not in users]
    assert then == users
    given = [asked("reducible_loss", 0, unit, "table=given") for unit in ("candidates", "trained")]
    assert spread.waves(given) == (given, [])


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (UsageError("it cannot be"), 2)])
def test_what_is_done_stays_and_the_next_call_goes_on(
    application: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
) -> None:
    arguments = ("selections=[uniform,random_subset,keep_all]", "units=candidates", "seeds=1", *SMALL)
    run, done = spread.run, list[str]()

    def noted(request: Request, *rest: Any) -> Any:
        if len(done) == 1 and not (tmp_path / "run" / "results.csv").exists():
            done.append("failed")
            raise error
        done.append(request.choices["selection"])
        return run(request, *rest)

    monkeypatch.setattr(spread, "run", noted)
    assert application("compare", *arguments) == status
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        kept = [row["selection"] for row in csv.DictReader(file)]
    assert kept == (["uniform"] if status == 130 else ["uniform", "keep_all"])  # the others of a wave end first
    assert "cells are done; the same command goes on from here" in capsys.readouterr().out
    assert application("compare", *arguments) == 0
    assert done[-1] == ("keep_all" if status == 130 else "random_subset")
    assert len(done) == 4
    assert len(summaries(tmp_path / "run")) == 3


@pytest.mark.usefixtures("in_process")
def test_cells_are_seen_while_others_run(application: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, run, order = Runner._finish, spread.run, list[str]()

    def finished(self: Runner, out: Path, summary: Any) -> None:
        order.append("seen")
        finish(self, out, summary)

    def noted(request: Request, *rest: Any) -> Any:
        deadline = 200
        while order.count("run") > order.count("seen") and deadline:
            spread.threading.Event().wait(0.05)
            deadline -= 1
        order.append("run")
        return run(request, *rest)

    monkeypatch.setattr(Runner, "_finish", finished)
    monkeypatch.setattr(spread, "run", noted)
    monkeypatch.setattr(spread, "BETWEEN_LOOKS", 0.05)
    assert application("compare", "selections=[uniform,random_subset]", "units=candidates", "seeds=1", *SMALL) == 0
    assert order == ["run", "seen", "run", "seen"]
