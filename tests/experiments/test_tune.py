"""`python -m experiments.tune`, and comparisons of tuned arms."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning import Trainer

from experiments import trial_run
from tests.experiments.conftest import Command

SMALL = ("selections=[uniform,selective_backprop]", "trainer.max_epochs=1", "trainer.limit_train_batches=4")
NO_LOG = "logger=none"
# Optuna 2, which the sweeper asks for, calls by names that other packages are about to drop
optuna = pytest.mark.filterwarnings("ignore")


def tuned(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tuned.json").read_text())


def rates(arm: dict[str, Any]) -> list[float]:
    return [float(trial["overrides"][0].removeprefix("optimizer.lr=")) for trial in arm["tried"]]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names the folders of trials that are really run, and lets none look at test images."""
    done: list[str] = []
    run = trial_run.run

    def noted(request: Any, *rest: Any) -> Any:
        done.append(request.out.name)
        return run(request, *rest)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("test images were looked at")

    monkeypatch.setattr(trial_run, "run", noted)
    monkeypatch.setattr(Trainer, "test", refuse)
    return done


def test_a_grid(application: Command, tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("learning_rates=[0.001,0.2]", 'space=["keep=0.25,0.5"]')
    assert application("tune", *SMALL, NO_LOG, *asked) == 0
    found = tuned(tmp_path / "run")
    arms = found["arms"]
    assert rates(arms["uniform"]) == [0.001, 0.005848, 0.0342, 0.2]  # as many as those of an arm that selects
    assert rates(arms["selective_backprop"]) == [0.001, 0.001, 0.2, 0.2]
    assert arms["selective_backprop"]["tried"][1]["overrides"] == ["optimizer.lr=0.001", "keep=0.5"]
    for arm in arms.values():
        accuracies = [trial["accuracy"] for trial in arm["tried"]]
        best = arm["tried"][accuracies.index(max(accuracies))]
        assert arm["overrides"] == best["overrides"]
        assert len(set(accuracies)) > 1
        summary = json.loads((tmp_path / "run" / "trials" / best["folder"] / "summary.json").read_text())
        assert summary["val_accuracy"] == best["accuracy"]
        assert not [key for key in summary if key.startswith("test_") and key != "test_examples"]
    assert found["command"].startswith("python -m experiments.tune ")
    assert "learning_rates=[0.001,0.2]" in found["command"]
    assert "uniform: optimizer.lr=0.2, best of 4" in capsys.readouterr().out
    assert len(trained) == 8
    assert application("tune", *SMALL, NO_LOG, *asked) == 0
    assert len(trained) == 8  # nothing is trained twice
    assert tuned(tmp_path / "run") == found


def test_pooled_arms_get_what_is_best_for_their_mean(
    application: Command,
    tmp_path: Path,
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    accuracies = {
        "uniform": {"0.001": 0.5, "0.02": 0.4, "0.2": 0.6},
        "selective_backprop": {"0.001": 0.7, "0.02": 0.4, "0.2": 0.5},
    }

    def run(job: Any, config: Any) -> float:
        runtime, rate = HydraConfig.get().runtime, config.optimizer.lr
        accuracy = accuracies[runtime.choices["selection"]][str(rate)]
        trial = {"overrides": [f"optimizer.lr={rate}"], "accuracy": accuracy, "folder": "none"}
        (Path(runtime.output_dir) / trial_run.FILE).write_text(json.dumps(trial))
        return accuracy

    monkeypatch.setattr(trial_run.TrialRun, "__call__", run)
    for pooled, rate in ((False, "0.2"), (True, "0.001")):
        assert application("tune", *SMALL, NO_LOG, "learning_rates=[0.001,0.02,0.2]", f"pooled={pooled}") == 0
        arms = tuned(tmp_path / "run")["arms"]
        assert arms["uniform"]["overrides"] == [f"optimizer.lr={rate}"]
        assert arms["selective_backprop"]["overrides"] == ["optimizer.lr=0.001"]
        assert [trial["accuracy"] for trial in arms["uniform"]["tried"]] == [0.5, 0.4, 0.6]
        said = capsys.readouterr().out
        assert ("all arms: optimizer.lr=0.001" in said) == pooled
        assert "0.6000 (the greatest learning rate that was tried: widen learning_rates)" in said
        assert said.count("(the least learning rate that was tried") == 1 + pooled
    for arm in accuracies.values():
        arm["0.02"] = 0.9
    assert application("tune", *SMALL, NO_LOG, "learning_rates=[0.001,0.02,0.2]", "pooled=true") == 0
    said = capsys.readouterr().out
    assert "all arms: optimizer.lr=0.02, mean validation accuracy 0.9000" in said
    assert "widen" not in said
    assert trained == []


def test_a_trial_is_the_mean_of_its_seeds(application: Command, tmp_path: Path, trained: list[str]) -> None:
    asked = ("selections=[uniform]", *SMALL[1:], NO_LOG, "learning_rates=[0.001,0.2]", "seed=4")
    assert application("tune", *asked, "trial_seeds=3") == 0
    trials = tuned(tmp_path / "run")["arms"]["uniform"]["tried"]
    assert [trial["overrides"] for trial in trials] == [["optimizer.lr=0.001"], ["optimizer.lr=0.2"]]
    for trial in trials:
        folders = [tmp_path / "run" / "trials" / name for name in trial["folder"].split()]
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
        assert [summary["seed"] for summary in summaries] == [4, 5, 6]
        accuracies = [summary["val_accuracy"] for summary in summaries]
        assert len(set(accuracies)) > 1
        assert trial["accuracy"] == pytest.approx(sum(accuracies) / 3)
    assert len(trained) == 6
    assert application("tune", *asked) == 0
    assert len(trained) == 6  # the first seed's runs are kept


@pytest.mark.parametrize(
    "asked", [("trial_seeds=0",), ("trial_seeds=1.5",), ("trial_seeds=2", "hydra/sweeper=optuna", "trials=2")]
)
def test_wrong_numbers_of_seeds_are_refused(
    application: Command, trained: list[str], capsys: pytest.CaptureFixture[str], asked: tuple[str, ...]
) -> None:
    if len(asked) > 1:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert application("tune", *SMALL, NO_LOG, *asked) == 2
    assert "trial_seeds must be an integer of at least 1, and 1 with hydra/sweeper=optuna" in capsys.readouterr().err
    assert trained == []


@pytest.mark.parametrize(
    ("own", "more"), [("keep=0.35", ['space=["keep=0.25,0.5"]']), ("optimizer.lr=0.1", []), ("++optimizer.lr=0.1", [])]
)
def test_what_an_arm_fixes_is_not_tried(
    application: Command, trained: list[str], capsys: pytest.CaptureFixture[str], own: str, more: list[str]
) -> None:
    arms = f"selections=[uniform,'top_loss {own}']"
    assert application("tune", arms, *SMALL[1:], NO_LOG, *more) == 2
    assert f"received {own.lstrip('+').partition('=')[0]} in both the arm 'top_loss {own}'" in capsys.readouterr().err
    assert trained == []


def test_pooled_is_yes_or_no(application: Command, trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert application("tune", *SMALL, NO_LOG, "pooled=never") == 2
    assert "pooled must be true or false, received 'never'" in capsys.readouterr().err
    assert trained == []


@pytest.mark.parametrize("more", ['space=["keep=0.25,0.5"]', "hydra/sweeper=optuna"])
def test_pooled_arms_must_try_the_same(
    application: Command, trained: list[str], capsys: pytest.CaptureFixture[str], more: str
) -> None:
    if "optuna" in more:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert application("tune", *SMALL, NO_LOG, "pooled=true", more) == 2
    assert "pooled=true needs arms that all try the same" in capsys.readouterr().err
    assert trained == []


@optuna
def test_optuna_gives_every_arm_as_many_trials(application: Command, tmp_path: Path, trained: list[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    asked = ("hydra/sweeper=optuna", "trials=2", 'space=["keep=0.25,0.5"]')
    assert application("tune", *SMALL, NO_LOG, *asked) == 0
    found = tuned(tmp_path / "run")
    uniform, selective = found["arms"]["uniform"], found["arms"]["selective_backprop"]
    assert len(uniform["tried"]) == len(selective["tried"]) == 2
    assert all(0.025 <= rate <= 0.4 for rate in rates(uniform) + rates(selective))
    assert uniform["overrides"][0].startswith("optimizer.lr=")
    assert {override.partition("=")[0] for override in selective["overrides"]} == {"optimizer.lr", "keep"}
    assert "hydra/sweeper=optuna" in found["command"]
    before = len(trained)
    assert application("tune", *SMALL, NO_LOG, *asked) == 0
    assert len(trained) == before  # the same seed asks for the same trials
    assert tuned(tmp_path / "run") == found


@optuna
def test_optuna_maximises_what_a_run_returns(application: Command, tmp_path: Path, trained: list[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweep = ("-m", "experiment=optuna", "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={tmp_path}/sweep")
    assert application("train", *sweep, *SMALL[1:], NO_LOG) == 0
    found = [json.loads(file.read_text())["val_accuracy"] for file in (tmp_path / "sweep").glob("*/summary.json")]
    assert len(found) == 2
    best = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    assert f"best_value: {max(found)}" in best


def tuned_file(folder: Path, **arms: int) -> str:
    """A file of arms with a learning rate each and so many trials."""
    file = folder / "tuned.json"
    trial = {"overrides": ["optimizer.lr=0.05"], "accuracy": 0.5, "folder": "x"}
    content = {
        arm: {"overrides": [f"optimizer.lr=0.{n}"], "tried": [trial] * trials}
        for n, (arm, trials) in enumerate(arms.items(), 1)
    }
    file.write_text(json.dumps({"command": "x", "arms": content}))
    return str(file)


def test_compare_uses_them(application: Command, tmp_path: Path) -> None:
    file = tuned_file(tmp_path, uniform=3, selective_backprop=3, top_loss=1)  # the last is not compared
    assert application("compare", *SMALL, NO_LOG, "seeds=1", "units=candidates", f"tuned={file}") == 0
    by_arm = {
        summary["selection"]: summary["command"]
        for summary in (json.loads(path.read_text()) for path in tmp_path.glob("run/cells/*/summary.json"))
    }
    assert "optimizer.lr=0.1" in by_arm["uniform"]
    assert "optimizer.lr=0.2" in by_arm["selective_backprop"]
    assert f"tuned={file}" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"uniform": 3, "selective_backprop": 4}, "received uniform 3, selective_backprop 4"),
        ({"selective_backprop": 4}, "received uniform 0, selective_backprop 4"),
        ({}, "received uniform 0, selective_backprop 0"),
    ],
)
def test_unequal_trials_are_refused(
    application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], arms: dict[str, int], message: str
) -> None:
    assert application("compare", *SMALL, f"tuned={tuned_file(tmp_path, **arms)}") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "not JSON", "{}", "[]", '{"arms": {"uniform": {}}}'])
def test_other_files_are_refused(
    application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    file = tmp_path / "file.json"
    if content is not None:
        file.write_text(content)
    assert application("compare", *SMALL, f"tuned={file}") == 2
    assert "tuned must be a file of tuned arms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("tune", ("learning_rates=[0.1]",), "learning_rates must be two or more different numbers above 0"),
        ("tune", ("learning_rates=[0,0.1]",), "received [0.0, 0.1]"),
        ("tune", ("trials=3",), "received trials=3"),
        ("tune", ('space=["keep=interval(0.2,0.6)"]',), "a grid needs lists of values"),
        ("tune", ("optimizer.lr=0.1",), "tune sets optimizer.lr for each of its trials"),
        ("tune", ("selections=[sb]",), "received sb"),
        ("tune", ("data.val_fraction=0",), "evaluate_on=val needs a validation split"),
        ("train", ("evaluate_on=val",), "evaluate_on=val needs a validation split"),
        ("train", ("evaluate_on=train",), "evaluate_on must be test or val, received train"),
        ("compare", ("evaluate_on=val",), "received evaluate_on=val"),
    ],
)
def test_refused(
    application: Command, capsys: pytest.CaptureFixture[str], name: str, arguments: tuple[str, ...], message: str
) -> None:
    assert application(name, *arguments) == 2
    assert message in capsys.readouterr().err


@optuna
def test_optuna_needs_a_number(application: Command, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert application("tune", "hydra/sweeper=optuna") == 2
    assert "trials must be an integer of at least 1, received None" in capsys.readouterr().err
