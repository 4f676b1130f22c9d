"""Settings of every test."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: two threads on a busy machine wait for each other

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random stream."""
    torch.manual_seed(0)
