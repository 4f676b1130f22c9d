"""The law against a loop over rows; how evenly visits are spaced; what its settings mean."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from litselect.selectors import KeepUnlearned

UNKNOWN = torch.finfo(torch.float32).max
EPOCHS = 200


def loss_of(probability: float) -> float:
    return -math.log(probability)


def visits(select: KeepUnlearned, losses: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Whether each example is trained, ``[epochs, N]`` bool."""
    found = torch.zeros(EPOCHS, len(ids), dtype=torch.bool)
    for select.epoch in range(EPOCHS):
        found[select.epoch, select(losses=losses, ids=ids).indices] = True
    return found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_it_equals_a_loop_over_rows(data: st.DataObject) -> None:
    probabilities = data.draw(st.lists(st.integers(1, 99).map(lambda i: i / 100), min_size=1, max_size=12))
    ids = data.draw(st.lists(st.integers(0, 10**7), min_size=len(probabilities), max_size=len(probabilities)))
    select = KeepUnlearned(data.draw(st.sampled_from([0.25, 0.5, 1.0])), data.draw(st.sampled_from([0.05, 0.3, 1.0])))
    select.epoch = data.draw(st.integers(0, 300))
    chosen = select(losses=torch.tensor([loss_of(p) for p in probabilities]), ids=torch.tensor(ids))
    golden, plastic = 2 / (1 + math.sqrt(5)), 1 / 1.324717957244746
    for row, (p, i) in enumerate(zip(probabilities, ids, strict=True)):
        share = min(1.0, max(select.floor, (1 - p) / select.threshold))
        turn = (i * round(2**32 * plastic) + select.epoch * round(2**32 * golden)) % 2**32 / 2**32
        if abs(turn - share) > 1e-5:  # or rounding decides
            assert (row in chosen.indices.tolist()) == (turn < share)


@pytest.mark.parametrize("probability", [0.955, 0.9, 0.8825, 0.75, 0.6])
def test_an_example_is_trained_in_its_share_of_epochs_evenly(probability: float) -> None:
    share, ids = (1 - probability) / 0.5, torch.arange(1000)
    found = visits(KeepUnlearned(floor=0.05), torch.full((1000,), loss_of(probability)), ids)
    assert found.float().mean(0).sub(share).abs().max() < 3 / EPOCHS  # of chance it would be sqrt(share / EPOCHS)
    waits = [column.nonzero().squeeze(1).diff().max().item() for column in found.T]
    assert max(waits) <= math.ceil(1.9 / share)  # of chance, thrice that
    assert found.float().mean(1).sub(share).abs().max() < 0.02  # and no epoch has more of them than another


def test_what_is_not_learned_is_trained_always_and_what_is_in_the_share_of_the_floor() -> None:
    ids = torch.arange(100)
    losses = torch.tensor([loss_of(0.5), loss_of(0.1), UNKNOWN, 0.0]).repeat(25)
    found = visits(KeepUnlearned(threshold=0.5, floor=0.1), losses, ids).float().mean(0).reshape(25, 4)
    assert found[:, :3].min() == 1
    assert found[:, 3].sub(0.1).abs().max() < 3 / EPOCHS


def test_the_lower_the_threshold_the_more_is_kept() -> None:
    losses, ids = torch.rand(500) * 2, torch.arange(500)
    kept = [len(KeepUnlearned(threshold)(losses=losses, ids=ids)) for threshold in (0.1, 0.3, 0.5, 1.0)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 1.5 * kept[-1]


def test_inclusion_is_the_share_of_epochs_and_keep_the_least() -> None:
    losses = torch.tensor([loss_of(0.5), loss_of(0.75), 0.0, UNKNOWN])
    select = KeepUnlearned(floor=0.2)
    assert select.keep == 0.2
    found = {}
    for select.epoch in range(20):
        chosen = select(losses=losses, ids=torch.arange(4))
        assert chosen.inclusion is not None
        found |= dict(zip(chosen.indices.tolist(), chosen.inclusion.tolist(), strict=True))
    assert found == pytest.approx({0: 1.0, 1: 0.5, 2: 0.2, 3: 1.0})


def test_large_ids_have_turns_of_their_own() -> None:
    ids = 2**31 - 1 - torch.arange(1000)
    kept = len(KeepUnlearned()(losses=torch.full((1000,), loss_of(0.75)), ids=ids))
    assert abs(kept - 500) < 20


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.1}, {"floor": 0.0}, {"floor": math.nan}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"but got .*{name}={value}"):
        KeepUnlearned(**wrong)
