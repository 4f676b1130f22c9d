"""The two packages that have a Trainer."""

import importlib
import importlib.util
from typing import Any

import pytest

from tests.callbacks.kit import Kit

PACKAGES = ("pytorch_lightning", "lightning.pytorch")


@pytest.fixture(params=PACKAGES)
def kit(request: pytest.FixtureRequest) -> Any:
    """Tests that ask for `kit` run in the Trainers of both packages."""
    if importlib.util.find_spec(request.param.partition(".")[0]) is None:
        pytest.skip(f"{request.param} is not installed")
    return Kit(importlib.import_module(request.param))


@pytest.fixture
def solo() -> Any:
    """Tests that ask for `solo` run in one: where the package can't matter."""
    return Kit(importlib.import_module("pytorch_lightning"))
