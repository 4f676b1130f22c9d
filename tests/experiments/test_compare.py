"""`python -m experiments.compare`, end to end on real digits."""

import csv
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from experiments import compare, runner
from experiments.files import write_json
from experiments.watcher import Watcher
from tests.experiments.conftest import CONF, Command

SMALL = ("selections=[uniform,random_subset]", "seeds=2", "budget=2", "trainer.limit_train_batches=6", "logger=none")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names the folders of the cells that are really run."""
    done: list[str] = []
    run = runner.run

    def noted(request: Any, *rest: Any) -> Any:
        done.append(request.out.name)
        return run(request, *rest)

    monkeypatch.setattr(runner, "run", noted)
    return done


@pytest.mark.draws
def test_report(application: Command, tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert application("compare", *SMALL) == 0
    folder = tmp_path / "run"
    found = rows(folder)
    assert [(row["budget_unit"], row["selection"], row["seed"]) for row in found] == [
        (unit, arm, seed) for seed in "01" for unit in ("candidates", "trained") for arm in ("uniform", "random_subset")
    ]
    assert len(runs) == 6  # uniform serves both budgets with one run
    by_unit = {(row["budget_unit"], row["selection"]): int(row["examples_trained"]) for row in found}
    full = 2 * 6 * 64
    assert by_unit["candidates", "uniform"] == by_unit["trained", "uniform"] == full
    assert by_unit["candidates", "random_subset"] == full // 2
    assert by_unit["trained", "random_subset"] == full
    text, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    for content in (text, page, capsys.readouterr().out):
        assert "random_subset" in content
        assert re.search(r"random_subset against\s+uniform: ", content)
    assert "experiments.compare 'selections=[uniform,random_subset]' seeds=2" in text
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:)', page)  # needs nothing beside it
    assert {path.name for path in (folder / "plots").iterdir()} == {"curves-2-candidates.png", "curves-2-trained.png"}
    for name in re.findall(r"\]\((.*?)\)", text):
        assert (folder / name).exists()


def test_all_is_every_option_of_the_group(application: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[str] = []

    def note(requests: dict[Any, Any], *_: Any) -> Any:
        planned.extend(cell.arm for cell in requests)
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "Runner", note)
    assert application("compare", "selections=all", "seeds=1", "units=candidates", "logger=none") == 130
    options = {file.stem for file in (CONF / "selection").glob("*.yaml")}
    assert planned == ["uniform", *sorted(options - {"uniform"})]
    assert application("compare", "selections=every", "seeds=1") == 2


def test_a_cell_is_what_train_would_do(application: Command, tmp_path: Path) -> None:
    assert application("compare", *SMALL, "units=candidates", "seeds=[1]") == 0
    row = rows(tmp_path / "run")[1]
    line = row["command"].split()[3:]
    assert application("train", *line, f"hydra.run.dir={tmp_path}/alone") == 0
    alone = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert alone["test_loss"] == float(row["test_loss"])
    assert alone["selection"] == "random_subset"


def _without_training(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the cells' folders that would be trained from now on; there are results in them all the same."""
    runs: list[str] = []

    def run(request: Any, *_: Any) -> dict[str, Any]:
        runs.append(request.out.name)
        made = {"test_accuracy": 0.5, "seconds": 1.0}
        write_json(request.out / "summary.json", made)
        return made

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(compare, "write_report", lambda *_, **__: None)
    return runs


def test_finished_cells_are_kept(application: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _without_training(monkeypatch)

    def call(*more: str) -> int:
        assert application("compare", *SMALL, "units=candidates", *more) == 0
        return len(runs)

    assert call() == 4
    assert call() == 4
    assert call("seeds=3") == 6  # only the third seed is new
    assert call("data.label_noise=0.2") == 10  # another config
    monkeypatch.setattr(runner, "code_digest", lambda: "other code")
    assert call("reuse=config") == 10
    assert call() == 14
    assert len(set(runs)) == 10


def test_cells_of_an_own_selector_are_kept_while_that_is_what_it_was(
    application: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = _without_training(monkeypatch)

    monkeypatch.syspath_prepend(tmp_path)
    own = tmp_path / "selector_of_this_test.py"
    arm = 'selections=[uniform,{own: "top_loss selection.selector._target_=selector_of_this_test.Own"}]'
    for source, count in (("first", 2), ("first", 2), ("second", 3), ("second", 3)):
        own.write_text(f"from litselect.selectors import TopLoss as Own  # {source}\n")
        assert application("compare", *SMALL[2:], arm, "seeds=1", "units=candidates", "budget=2") == 0
        assert len(runs) == count


def test_a_damaged_result_is_named(
    application: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(request: Any, *_: Any) -> dict[str, Any]:
        request.summary.write_text('{"test_accuracy": 0.')  # as a power cut may leave it
        return {"test_accuracy": 0.5, "seconds": 1.0}

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(compare, "write_report", lambda *_, **__: None)
    call = ("compare", *SMALL, "units=candidates", "seeds=1")
    assert application(*call) == 0
    capsys.readouterr()
    assert application(*call) == 2
    message = capsys.readouterr().err
    assert "summary.json" in message
    assert "delete it" in message


def test_ctrl_c_reports_what_is_done_and_the_next_call_goes_on(
    application: Command,
    tmp_path: Path,
    runs: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    moved = Watcher.on_train_batch_end

    def interrupt(self: Watcher, *arguments: Any, **named: Any) -> None:
        moved(self, *arguments, **named)
        if len(runs) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Watcher, "on_train_batch_end", interrupt)
    assert application("compare", *SMALL, "units=candidates") == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(rows(tmp_path / "run")) == 2
    assert "2 of 4 cells are done" in (tmp_path / "run" / "report.md").read_text()
    printed = capsys.readouterr()
    assert "2 of 4 cells are done; the same command goes on from here" in printed.out
    assert "Traceback" not in printed.err
    monkeypatch.setattr(Watcher, "on_train_batch_end", moved)
    assert application("compare", *SMALL, "units=candidates") == 0
    assert len(runs) == 5
    assert len(rows(tmp_path / "run")) == 4
    assert "not complete" not in (tmp_path / "run" / "report.md").read_text()


def test_ctrl_c_in_a_single_run(application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.callbacks import Meter

    monkeypatch.setattr(Meter, "on_train_batch_end", lambda *_: signal.raise_signal(signal.SIGINT))
    assert application("train", "progress=false") == 130
    assert not (tmp_path / "run" / "summary.json").exists()
