"""Bad input ends with one clear line and a status, before any training step."""

from pathlib import Path

import pytest
from pytorch_lightning import Trainer

from tests.experiments.conftest import Command

BAD = [
    (("model=unknown",), "Could not find 'model/unknown'"),
    (("modle=mlp",), "Could not override 'modle'"),
    (("data=imagefolder",), "received none for data.root; add data.root=..."),
    (("data=imagefolder", "data.root=/nowhere"), "received data.root=/nowhere"),
    (("trainer.limit_train_batches=0",), "received trainer.limit_train_batches=0 of 20 batches; set it to 1.0"),
    (("trainer.limit_train_batches=0.01",), "received trainer.limit_train_batches=0.01"),
    (("data.drop_last=true", "data.batch_size=2000"), "set data.drop_last=false or a smaller data.batch_size"),
    (("data.label_noise=1.5",), "between 0 and 1, received 1.5"),
    (("trainer.max_epochs=0",), "at least 1 epoch, received trainer.max_epochs=0"),
    (("selection=selective_backprop", "keep=0"), "(0, 1]"),
    (("selection=selective_backprop", "+selection.kep=0.3"), "'kep'"),
    (("+model.widht=3",), "model takes width, depth, dropout, received widht"),
    (("+optimizer.lrr=3",), "received lrr"),
    (("optimizer.lr=-1",), "optimizer: Invalid learning rate: -1"),
    (("trainer.precision=99",), "trainer: Precision 99 is invalid"),
    (("unit=hours",), "received hours"),
    (("threads=0",), "threads must be auto or at least 1, received 0"),
]
BAD_COMPARISONS = [
    (("selections=[uniform,sb]",), "received sb"),
    (("selections=[]",), "received none"),
    (("seeds=0",), "seeds must be an integer of at least 1, or a list of them, received 0"),
    (("seeds=1.5",), "received 1.5"),
    (("seeds=[0,-1]",), "received [0, -1]"),
    (("budget=0",), "budget must be an integer of at least 1"),
    (("units=[seconds]",), "units must be one or more of candidates, trained, flops, reference, received seconds"),
    (("reuse=never",), "reuse must be code or config, received never"),
    (("selection=uniform",), "use selections=[...]"),
    (("keep=2",), "(0, 1]"),
    (("data.label_noise=2",), "between 0 and 1, received 2"),
]


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a training run was started")

    monkeypatch.setattr(Trainer, "fit", refuse)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [("train", *case) for case in BAD] + [("compare", *case) for case in BAD_COMPARISONS],
)
def test_refused(
    name: str, arguments: tuple[str, ...], message: str, application: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert application(name, *arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("name", ["train", "compare"])
def test_no_folder_can_be_made(
    name: str, application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()  # nobody, root included, can make a folder below a file
    assert application(name, f"hydra.run.dir={tmp_path}/file/run") == 2
    assert "the output folder must be writable" in capsys.readouterr().err


def test_no_permission(
    application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert application("train", f"hydra.run.dir={tmp_path}/run") == 2
    assert f"received {tmp_path}/run: Permission denied" in capsys.readouterr().err


def test_faults_of_the_program_keep_their_traceback(application: Command) -> None:
    with pytest.raises(AssertionError, match="a training run was started"):
        application("train", "progress=false")
