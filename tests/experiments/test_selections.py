"""Every option of the group `selection` trains on real digits, to the end of its budget."""

import json
from pathlib import Path

import pytest

from tests.experiments.conftest import CONF, Command

ARMS = sorted(file.stem for file in (CONF / "selection").glob("*.yaml"))
RATER = ("rater.width=4", "meta.meta_steps=3", "meta.population=1")
SMALL = ("trainer.max_epochs=4", "trainer.limit_train_batches=5", "model.width=16", "logger=none", "progress=false")


@pytest.mark.parametrize("arm", ARMS)
def test_trains(arm: str, application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if arm != "hide_learned":  # one of those that draw the ledger is enough: pictures take longer than all else
        monkeypatch.setattr("experiments.run.write_ledger", lambda *_: [])
    assert application("train", f"selection={arm}", *SMALL, *RATER) == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    table = found.get("table_examples_trained", 0)
    seen = found["candidates_seen"]
    least = 0.9 if arm == "datarater" else 1.0  # a tenth judges the others
    assert seen >= table + 4 * 5 * 64 if table else least * 4 * 5 * 64 - 32 < seen <= 4 * 5 * 64
    assert 0 < found["examples_trained"] - table <= 4 * 5 * 64
    assert 0.1 < found["test_accuracy"] <= 1
