"""`python -m experiments.selector_table`: what it reads off the code, and what it measures."""

from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback

from experiments import selector_table
from experiments.irreducible import Table
from experiments.selector_facts import Facts
from experiments.selector_timing import Epochs, Measured, enlarged, measure
from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.scoring import ScoringPass
from litselect.selectors import KeepAll, LossPercentile, Mixture, RandomSubset, ReducibleLoss, Selection, Selector
from tests.experiments.conftest import CONF, Command
from tests.experiments.sources import digits

PARTS = digits().read()


class Cited(Selector):
    """As Doe and Roe (1999, https://example.org/paper.) do; Poe, 2001, https://example.org/other.

    Needs: logits.  State: a number; another one.
    Cost: none.
    """

    def select(self, k: int, *, logits: Any, targets: Any) -> Selection:
        raise AssertionError("nothing is selected")


class Silent(Selector):
    """Says nothing of Poe, 2001, https://example.org/other, but names Doe, 1999 first."""

    def select(self, k: int) -> Selection:
        raise AssertionError("nothing is selected")


def test_facts_are_read_off_the_code() -> None:
    assert Facts.of(ExampleSelection(Cited(0.5))) == Facts(
        "Cited", "logits, targets", "a number; another one", "[Doe and Roe, 1999](https://example.org/paper)"
    )


def test_an_address_belongs_to_the_work_before_it() -> None:
    silent = Facts.of(ExampleSelection(Silent(0.5)))
    assert silent.paper == "[Poe, 2001](https://example.org/other)"
    assert (silent.needs, silent.state) == ("nothing", "")
    assert Facts.of(ExampleSelection(Mixture(Silent(0.5)))).paper == "Auer et al., 2002"


def test_wrapped_selectors_ledgers_and_tables_are_named() -> None:
    wrapped = Facts.of(ExampleSelection(Mixture(LossPercentile(0.5))))
    assert wrapped.selector == "[Mixture](mixture.md)(LossPercentile)"
    passing = SelectiveBackprop(0.5, scoring=ScoringPass())
    assert Facts.of(passing).state == "the last R losses and its random stream"
    assert Facts.of(SelectiveBackprop(0.5)).state.endswith("; the ledger")
    reducible = Facts.of(ExampleSelection(ReducibleLoss(0.5, Table(None))))
    assert reducible.state == "the ledger; a table, made by a model that is trained beforehand"
    assert Facts.of(ExampleSelection(KeepAll())).state == "none"


@pytest.mark.usefixtures("composing")
def test_what_is_measured_leaves_out_the_first_and_the_last_epoch() -> None:
    from hydra import compose

    config = compose("selector_table", ["out=unused", "model.width=4", "trainer.max_epochs=4"])
    parts = enlarged(PARTS, rows=128)
    assert parts[0].pixels.shape == (128, 1, 16, 16)
    assert parts[0].pixels[:, :, ::2, ::2].equal(PARTS[0].pixels[:128])
    plain = measure(config, parts, None)
    assert plain.scored == 0
    assert plain.seconds > 0
    passing = SelectiveBackprop(0.5, scoring=ScoringPass())
    assert measure(config, parts, passing).scored == 1  # its first epoch is a warm-up
    assert measure(config, parts, SelectiveBackprop(0.5)).scored == 0
    assert measure(config, parts, ExampleSelection(RandomSubset(0.5))).scored == 0


def test_page(application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Callback | None] = []
    ratios = iter([2.0, 0.5, 1.0] * 100)

    def fake(config: Any, parts: Any, selection: Callback | None) -> Measured:
        measured.append(selection)
        return Measured(10.0, 0.0) if selection is None else Measured(10 * next(ratios), 1 / 3)

    monkeypatch.setattr(selector_table, "measure", fake)
    monkeypatch.setattr(selector_table, "make_table", lambda *_: None)
    file = tmp_path / "table.md"
    assert application("selector_table", f"file={file}", "rounds=3") == 0
    text = file.read_text()
    options = sorted(file.stem for file in (CONF / "selection").glob("*.yaml"))
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [option for option in options if option != "uniform"]
    assert all("| 0.33 | 1.00 (0.50 to 2.00) |" in row for row in rows)
    assert measured[0::2] == [None] * 3 * len(rows)  # every training has a plain one before it
    assert None not in measured[1::2]
    assert "torch 2" in text
    assert str(tmp_path) not in text


def test_epochs_are_noted() -> None:
    unused: Any = None
    epochs = Epochs(None)
    epochs.on_train_epoch_end(unused, unused)
    epochs.on_train_epoch_end(unused, unused)
    assert epochs.scored == [0, 0]
    assert epochs.seconds == sorted(epochs.seconds)
