"""Ways to run the applications inside the test process, which spares the seconds of importing torch anew."""

import logging
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import experiments
from experiments.cli import command

CONF = Path(experiments.__file__).parent / "conf"
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")

Command = Callable[..., int]


def dot(figure: object, file: Path, **settings: object) -> None:
    """In the place of a figure."""
    Image.new("1", (1, 1), 1).save(file)


@pytest.fixture
def composing() -> Iterator[None]:
    """Makes `hydra.compose` read `experiments/conf`."""
    with initialize_config_dir(str(CONF), version_base=None):
        yield


@pytest.fixture
def application(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`application("train", "seed=1", ...)` is `python -m experiments.train seed=1 ...`, and returns the exit status.

    It runs in `tmp_path / "run"` unless told otherwise. Figures, a third of the time of a short comparison, are written
    as one white dot, unless a test is marked `draws`.
    """
    if request.node.get_closest_marker("draws") is None:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", dot)

    def call(name: str, *arguments: str) -> int:
        where = () if any("hydra.run.dir" in argument for argument in arguments) else (f"hydra.run.dir={tmp_path}/run",)
        for logger in map(logging.getLogger, ("litselect", "experiments")):  # which applications make quiet
            monkeypatch.setattr(logger, "level", logger.level)
        monkeypatch.setattr(sys, "argv", [f"experiments.{name}", *arguments, *where, *QUIET])
        try:
            command(name, import_module(f"experiments.{name}").main)
        except SystemExit as stop:
            return int(stop.code or 0)
        finally:
            GlobalHydra.instance().clear()
        return 0

    return call
