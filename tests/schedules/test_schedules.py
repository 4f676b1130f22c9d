"""Shapes of the learning rate."""

import pytest
import torch

from litselect.schedules import Constant, Cosine, Linear, OneCycle, Schedule, Steps

DECAYING = [Linear(0.0), Linear(0.25), Cosine(0.0), Cosine(0.25)]


@pytest.mark.parametrize("schedule", DECAYING)
def test_decays_to_zero_without_rising_after_warmup(schedule: Schedule) -> None:
    after = [schedule(0.25 + 0.75 * step / 100) for step in range(101)]
    assert after == sorted(after, reverse=True)
    assert after[-1] == pytest.approx(0, abs=1e-12)
    assert schedule(1.5) == pytest.approx(0, abs=1e-12)  # a last batch may overshoot


@pytest.mark.parametrize("schedule", [Linear(0.2), Cosine(0.2), Constant(0.2), Steps([0.5], 0.1, warmup=0.2)])
def test_warmup_rises_linearly_to_one(schedule: Schedule) -> None:
    assert [schedule(share) for share in (0.0, 0.05, 0.1, 0.2)] == pytest.approx([0, 0.25, 0.5, 1])


def test_values() -> None:
    assert Linear(0.0)(0.25) == 0.75
    assert Cosine(0.0)(0.5) == pytest.approx(0.5)
    assert Constant(0.0)(1.0) == 1
    paper = Steps()
    assert [paper(epoch / 200) for epoch in (0, 59, 60, 119, 120, 160, 199)] == pytest.approx(
        [1, 1, 0.2, 0.2, 0.04, 0.008, 0.008]
    )


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_warmup_out_of_range(warmup: float) -> None:
    with pytest.raises(ValueError, match=r"schedule\.warmup"):
        Linear(warmup)


@pytest.mark.parametrize("milestones", [[0.6, 0.3], [0.5, 1.2]])
def test_milestones_out_of_order_or_range(milestones: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending shares"):
        Steps(milestones)


def test_one_cycle_is_that_of_torch() -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=11, cycle_momentum=False)
    rates = []
    for _ in range(11):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        if len(rates) < 11:
            theirs.step()
    ours = OneCycle(peak=(0.3 * 11 - 1) / 10)  # in torch the peak is a step, from 0 to 10
    assert [ours(step / 10) for step in range(11)] == pytest.approx(rates, abs=1e-9)


@pytest.mark.parametrize("peak", [0.0, 1.0])
def test_peak_out_of_range(peak: float) -> None:
    with pytest.raises(ValueError, match=r"schedule\.peak"):
        OneCycle(peak)
