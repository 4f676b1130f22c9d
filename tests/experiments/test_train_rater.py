"""`python -m experiments.train_rater`, and training by what it makes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.callbacks import Cost, Tally
from experiments.data import ImageData
from experiments.errors import UsageError
from experiments.rating import Rated
from experiments.rating.auroc import auroc
from experiments.rating.folder import RaterFolder
from litselect.scoring import RaterArtifact
from tests.experiments.conftest import Command
from tests.experiments.sources import digits

DATA = ("data.label_noise=0.4", "data.heldout_fraction=0.1")
TINY = ("rater.width=4", "model.width=16", "meta.meta_steps=6", "meta.population=1", "meta.log_every=4")
META = (*TINY, "meta.lifetime=20", "progress=false", "logger=none")
HELD = {"label_noise": 0.4, "heldout_fraction": 0.1, "batch_size": 64}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratings by id keep a ledger, which runs draw pictures of; that takes longer than all the rest."""
    from experiments import run

    monkeypatch.setattr(run, "write_ledger", lambda *arguments: None)


@pytest.fixture
def rater(application: Command, tmp_path: Path) -> Path:
    """The folder of a rater that has hardly begun."""
    assert application("train_rater", *DATA, *META, f"hydra.run.dir={tmp_path}/made") == 0
    return tmp_path / "made" / "rater"


def summary(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "run" / "summary.json").read_text())


def test_auroc_against_counting_pairs() -> None:
    scores = torch.tensor([0.1, 0.4, 0.35, 0.8, 0.4])
    clean = torch.tensor([False, False, True, True, True])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[clean] for b in scores[~clean]]
    assert auroc(scores, clean) == pytest.approx(float(sum(pairs)) / 6)
    assert auroc(scores, torch.ones(5, dtype=torch.bool)) != auroc(scores, clean)  # NaN


def test_an_artifact_says_what_it_is(rater: Path) -> None:
    data = ImageData(digits(**HELD), 0)
    artifact = RaterArtifact.load(rater)
    assert artifact.settings["fingerprint"] == data.fingerprint()
    assert artifact.settings["command"].startswith("python -m experiments.train_rater data.label_noise=0.4")
    scores, cost = RaterFolder(rater).read(data.fingerprint())
    assert scores.shape == (len(data.train),)
    assert cost.tally == Tally(seen=6 * 3 * 64, scored=6 * 2 * 64 + len(data.train), trained=6 * 3 * 64, steps=6 * 2)
    assert cost.seconds > 0
    rows = [*csv.DictReader((rater / "auroc.csv").read_text().splitlines())]
    assert [row["meta_step"] for row in rows] == ["4", "6"]
    assert float(rows[-1]["auroc"]) == artifact.settings["auroc"]
    assert auroc(scores, ~data.corrupted) == pytest.approx(artifact.settings["auroc"], abs=1e-4)


def test_operations_are_those_of_all_meta_steps(rater: Path) -> None:
    _, cost = RaterFolder(rater).read(ImageData(digits(**HELD), 0).fingerprint())
    inner = 6 * (64 * 16 + 16 * 16 + 16 * 10)  # of one row forward and backward; the model trains two batches
    least, most = 6 * 64 * inner * 3, 6 * 64 * inner * 40
    assert least < cost.flops < most


def test_training_by_an_artifact_pays_its_share(rater: Path, application: Command, tmp_path: Path) -> None:
    paid = Cost.from_json(json.dumps(RaterArtifact.load(rater).settings["cost"]))
    run = ("selection=rated", f"selection.artifact={rater}", *DATA, "model.width=16", "trainer.max_epochs=1")
    found = {}
    for runs in ("1", "10", "inf"):
        assert application("train", *run, f"selection.runs={runs}", "logger=none", "progress=false") == 0
        found[runs] = summary(tmp_path)
    assert found["1"]["flops"] - found["inf"]["flops"] == paid.flops == found["1"]["table_flops"]
    assert found["10"]["flops"] - found["inf"]["flops"] == round(paid.flops / 10)
    assert "table_flops" not in found["inf"]
    assert found["inf"]["examples_scored"] == 0
    assert found["1"]["test_loss"] == found["inf"]["test_loss"]


def test_an_artifact_of_other_data_is_refused(
    rater: Path, application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("selection=rated", f"selection.artifact={rater}", *DATA, "progress=false", "logger=none")
    for change in ("data.label_noise=0.3", "data.pixel_noise=0.1", "data.heldout_fraction=0.2"):
        kept = [argument for argument in run if change.partition("=")[0] not in argument]
        assert application("train", *kept, change) == 2
        assert "must belong to the training set" in capsys.readouterr().err
    assert application("train", "selection=rated", "selection.artifact=nowhere") == 2
    assert "must be the folder of a rater" in capsys.readouterr().err


def test_held_out_rows_neither_train_nor_report(application: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert application("train_rater", *DATA, "data.heldout_trained=true", *META) == 2
    assert "held-out rows of a rater are not trained" in capsys.readouterr().err
    assert application("train_rater", *DATA, "selection=top_loss", *META) == 2
    assert "received selection=top_loss; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["truth", "heldout_model"])
def test_controls_rate_by_other_means(source: str, application: Command, tmp_path: Path) -> None:
    run = ("selection=rated", f"selection.source={source}", "trainer.max_epochs=2", "model.width=16", *DATA)
    assert application("train", *run, "logger=none", "progress=false") == 0
    assert ("table_flops" in summary(tmp_path)) == (source == "heldout_model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "guess"}, "one of rater, heldout_model, truth, received guess"),
        ({"runs": 0}, "selection.runs must be at least 1, received 0"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    plain = {"keep": 0.5, "hard": False, "within_class": False, "temperature": 1.0, "source": "rater"}
    with pytest.raises(ValueError, match=message):
        Rated(**{**plain, "artifact": None, "runs": 1, **change})


def test_costs_are_shared() -> None:
    cost = Cost(Tally(10, 20, 30, 4), seconds=5.0, cpu_seconds=6.0, flops=70)
    assert cost.shared(10) == Cost(Tally(1, 2, 3, 0), seconds=0.5, cpu_seconds=0.6, flops=7)
    assert cost.shared(float("inf")) == Cost()


def test_unusable_meta_settings() -> None:
    from experiments.rating import MetaTraining
    from litselect.scoring.meta_gradients import Adam

    plain: dict[str, Any] = dict.fromkeys(("inner_steps", "population", "lifetime", "meta_steps", "log_every"), 1)
    plain |= {"meta_lr": 1e-3, "warmup": 1, "batch_size": 1, "heldout": 0.1, "inner_optimizer": Adam()}
    with pytest.raises(UsageError, match=r"meta\.population must be at least 1, received 0"):
        MetaTraining(**{**plain, "population": 0})
    with pytest.raises(UsageError, match=r"meta\.heldout must be between 0 and 1, received 1"):
        MetaTraining(**{**plain, "heldout": 1.0})


def test_a_comparison_makes_one_rater_for_each_seed(
    application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.rating import making, rated

    made: list[Path] = []

    def noted(config: Any, folder: RaterFolder, *rest: Any) -> Cost:
        made.append(folder.path)
        return making.make_rater(config, folder, *rest)

    monkeypatch.setattr(rated, "make_rater", noted)
    arguments = (
        "selections=[uniform,rated,datarater_paper]",
        "seeds=2",
        "budget=1",
        "units=[candidates]",
        "logger=none",
    )
    assert application("compare", *arguments, *TINY, "data.batch_size=256") == 0
    assert len(made) == len(set(made)) == 2
    text = (tmp_path / "run" / "report.md").read_text()
    assert "rated, datarater_paper: each run is charged for its table of irreducible losses or for its rater" in text


def test_a_budget_that_a_rater_exceeds_is_refused(application: Command, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("selection=rated", "unit=flops", "trainer.max_epochs=1", "logger=none", "progress=false", "meta.warmup=1")
    assert application("train", *run, *TINY) == 2
    assert "a budget must exceed what a run needs before it begins, received" in capsys.readouterr().err
