"""`python -m experiments.meta_step_cost`: what counts as memory, and what is written."""

from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

from experiments.look_aheads.live_memory import LiveMemory, peak
from experiments.records import read
from tests.experiments.conftest import Command


def test_storages_count_from_birth_to_end() -> None:
    def passing() -> torch.Tensor:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second * 2
        del second
        return third.view(10, 100)[2:]  # views are no memory

    assert peak(passing) == 8000
    with LiveMemory() as memory:
        kept = passing()
        assert memory.live == 4000
        del kept
        assert memory.live == 0


def test_what_was_there_before_does_not_count() -> None:
    given = torch.zeros(1000)
    assert peak(lambda: given.add_(1).view(10, 100)) == 0


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, in its rules for forward mode
def test_what_is_saved_for_derivatives_counts() -> None:
    x = torch.zeros(1000, requires_grad=True)
    with LiveMemory() as memory:
        y = x.exp().exp().exp()
        assert memory.live == 12000
        del y
        assert memory.live == 0
    with forward_ad.dual_level(), LiveMemory() as memory:
        dual = forward_ad.make_dual(torch.zeros(1000), torch.ones(1000)).exp()
        assert memory.live >= 8000  # value and tangent
        del dual


@pytest.mark.draws
def test_rows_figure_and_page(application: Command, tmp_path: Path) -> None:
    small = (
        "rounds=2",
        "steps=[1]",
        "activations.width=4",
        "parameters.width=8",
        "by_size.widths=[8]",
        "by_size.steps=1",
    )
    assert application("meta_step_cost", f"out={tmp_path}", f"images={tmp_path}/images", "check=false", *small) == 0
    rows = read(tmp_path / "cost.csv")
    assert [row["estimator"] for row in rows] == 3 * ["unroll", "adjoint", "jvp", "fd"]
    assert all(int(row["memory"]) > 0 and float(row["time_25"]) <= float(row["time_75"]) for row in rows)
    text = (tmp_path / "cost.md").read_text()
    assert "(images/cost.png)" in text
    assert (tmp_path / "images" / "cost.png").stat().st_size > 10_000
    assert "Cross-check" not in text
