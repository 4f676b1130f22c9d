"""Settings of every test."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: two threads on a busy machine wait for each other

from collections.abc import Iterator

import pytest
import torch

from tests import shapes

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs in the background without it
shapes.enforce("litselect")  # before its first import


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random stream."""
    torch.manual_seed(0)


@pytest.fixture
def any_shape() -> Iterator[None]:
    """Shapes are not enforced: for tests of what a user is told about a wrong one."""
    with shapes.unchecked():
        yield
