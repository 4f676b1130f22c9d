"""What a checkpoint holds: plain data that loads without running code, and what of it fits the run that goes on."""

import io
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from litselect.callbacks import ExampleSelection
from litselect.callbacks.random_streams import restore_streams
from litselect.callbacks.rank_buffers import own_buffers, restore_buffers
from litselect.callbacks.refill_queue import RefillQueue
from litselect.callbacks.run_state import gather_ranks, own_state, pick_state, selector_name
from litselect.scoring.random_streams import current_streams
from litselect.selectors import LossPercentile, RandomSubset, TopLoss
from tests.callbacks import ranks
from tests.callbacks.kit import differences, random_streams, seed_streams
from tests.callbacks.runs import SELECTORS, selection
from tests.selectors.specimens import Wrapper

CPU = torch.device("cpu")


def saved_and_loaded(state: Any) -> Any:
    """As a checkpoint would bring it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---------------------------------------------------------------------- random streams


def draws() -> list[Any]:
    return [torch.rand(3), np.random.rand(3), np.random.randn(3), random.random(), random.gauss(0, 1)]  # noqa: NPY002


def test_all_streams_go_on() -> None:
    seed_streams()
    draws()  # in the middle of a block, with half a pair of normal numbers in store
    state = saved_and_loaded(current_streams(CPU))
    before = random_streams()
    expected = draws()
    seed_streams(99)
    restore_streams(state, CPU)
    assert differences(before, random_streams()) == []
    assert differences(expected, draws()) == []


def test_saving_draws_nothing() -> None:
    before = random_streams()
    current_streams(CPU)
    assert differences(before, random_streams()) == []


def test_the_seed_comes_back_too() -> None:
    """From which selectors derive theirs at their first draw."""
    torch.manual_seed(5)
    state = current_streams(CPU)
    torch.manual_seed(77)
    restore_streams(state, CPU)
    assert torch.initial_seed() == 5


# ---------------------------------------------------------------------- rows that wait


def batch(first: int, n: int = 6) -> dict[str, Any]:
    ids = range(first, first + n)
    return {
        "x": torch.arange(first, first + n).float().unsqueeze(1).expand(n, 1000),
        "half": torch.arange(first, first + n).bfloat16(),
        "array": np.arange(first, first + n, dtype=np.int16),
        "complex": np.arange(first, first + n) * 1j,
        "words": np.array([f"word {i}" for i in ids]),
        "names": [f"name {i}" for i in ids],
        "scale": 2.0,
    }


def test_every_kind_of_column_survives() -> None:
    whole, resumed = RefillQueue(), RefillQueue()
    whole.push(batch(0), 6, torch.tensor([1, 2, 5]))
    whole.push(batch(6), 6, torch.tensor([0]))
    resumed.load_state_dict(saved_and_loaded(whole.state_dict()))
    for queue in (whole, resumed):
        queue.push(batch(12), 6, torch.tensor([3, 4]))
    assert len(resumed) == len(whole) == 6
    for k in (2, 4):
        one, other = whole.pop(k, batch(12), 6), resumed.pop(k, batch(12), 6)
        assert differences(one, other) == []
        assert one["array"].dtype == other["array"].dtype == np.int16
    assert other["names"] == ["name 5", "name 6", "name 15", "name 16"]
    assert other["words"].tolist() == ["word 5", "word 6", "word 15", "word 16"]


def test_rows_that_are_gone_are_not_saved() -> None:
    """What waits is a view of what came; torch saves the storage of a view whole."""
    queue = RefillQueue()
    queue.push({"x": torch.zeros(100, 1000)}, 100, torch.arange(100))
    queue.pop(99, {"x": torch.zeros(100, 1000)}, 100)
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    assert len(file.getvalue()) < 10_000


def test_the_state_is_a_copy() -> None:
    queue = RefillQueue()
    queue.push({"x": torch.zeros(4)}, 4, torch.arange(4))
    state = queue.state_dict()
    queue._columns[0].fill_(1)
    assert not state["columns"][0].any()


def test_what_was_dropped_is_remembered() -> None:
    """So that the warning of it is given once a run, not once a checkpoint."""
    queue, resumed = RefillQueue(), RefillQueue()
    queue.push({"x": torch.zeros(4)}, 4, torch.arange(4))
    queue.limit(1)
    resumed.load_state_dict(queue.state_dict())
    assert resumed.dropped == 3


# ---------------------------------------------------------------------- states of all ranks


def state_of(callback: ExampleSelection, world: int = 1) -> dict[str, Any]:
    """A checkpoint of `world` ranks, each with counters and a queue of its own."""
    ranks_ = []
    for rank in range(world):
        own = own_state(callback, None, CPU)
        own["counters"] = own["counters"] | {"seen": 10 + rank}
        own["queue"] = {"columns": [torch.full((3,), rank)], "rows": 3, "dropped": 0}
        ranks_.append(own)
    return {
        "selector": selector_name(callback.selector), "across_ranks": callback.across_ranks, "ranks": ranks_,
        "memory": None,
    }  # fmt: skip


def used(selector: Any) -> Any:
    selector(losses=torch.rand(8))
    return selector


@pytest.mark.parametrize("name", SELECTORS)
def test_the_state_is_plain_data(name: str) -> None:
    callback = selection(name)
    state = callback.state_dict()
    loaded = saved_and_loaded(state)
    assert differences(state, loaded) == []
    other = selection(name)
    other.load_state_dict(loaded)
    assert differences(other.selector.state_dict(), callback.selector.state_dict()) == []


def test_without_processes_a_state_is_its_own_gathering() -> None:
    assert gather_ranks({"a": 1}) == [{"a": 1}]


def test_every_rank_gets_its_own() -> None:
    callback = ExampleSelection(used(LossPercentile(0.5)))
    for rank in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            picked = pick_state(state_of(callback, 2), callback, rank, 2)
        assert picked["counters"]["seen"] == 10 + rank
        assert picked["queue"]["columns"][0].tolist() == [rank] * 3
        assert picked["streams"] is not None


def test_a_rank_that_is_new_begins_with_nothing_but_the_history() -> None:
    callback = ExampleSelection(used(Wrapper(LossPercentile(0.5, seed=0))))
    with pytest.warns(UserWarning, match="made by 1 processes, but 2 go on"):
        picked = pick_state(state_of(callback), callback, 1, 2)
    assert picked["counters"]["seen"] == 0
    assert picked["queue"]["rows"] == 0
    assert picked["streams"] is None
    assert list(picked["selector"]["inner"]) == ["losses"]  # no generator


def test_across_ranks_all_begin_alike() -> None:
    callback = ExampleSelection(used(LossPercentile(0.5, seed=0)), across_ranks=True)
    apart = ExampleSelection(used(LossPercentile(0.5, seed=1)))
    state = state_of(apart, 2)
    state["ranks"][1]["selector"] = used(LossPercentile(0.5, seed=2)).state_dict()
    picked = [pick_state(state, callback, rank, 2)["selector"] for rank in range(2)]
    assert differences(*picked) == []


def test_after_a_common_draw_every_rank_draws_for_itself() -> None:
    together = ExampleSelection(used(LossPercentile(0.5, seed=0)), across_ranks=True)
    apart = ExampleSelection(LossPercentile(0.5, seed=0))
    picked = [pick_state(state_of(together, 2), apart, rank, 2)["selector"] for rank in range(2)]
    assert "generator" in picked[0]
    assert "generator" not in picked[1]


def test_another_selector_keeps_counters_and_queue() -> None:
    callback = ExampleSelection(RandomSubset(0.5))
    with pytest.warns(UserWarning, match="made with the selector TopLoss, but training goes on with RandomSubset"):
        picked = pick_state(state_of(ExampleSelection(TopLoss(0.5))), callback, 0, 1)
    assert picked["selector"] is None
    assert picked["counters"]["seen"] == 10
    assert picked["queue"]["rows"] == 3


def test_names_tell_what_is_inside() -> None:
    assert selector_name(TopLoss(0.5)) == "TopLoss"
    assert selector_name(Wrapper(Wrapper(TopLoss(0.5)))) == "Wrapper(Wrapper(TopLoss))"


# ---------------------------------------------------------------------- buffers


def test_alone_there_are_no_buffers_to_save() -> None:
    assert own_buffers(nn.BatchNorm1d(3)) == {}


def buffers_of_ranks() -> Any:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    net.register_buffer("alike", torch.ones(2))
    net[0].running_mean.fill_(rank)
    own = own_buffers(net)
    other = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    other.register_buffer("alike", torch.ones(2))
    restore_buffers(other, saved_and_loaded(own))
    return own, other[0].running_mean, net[0].running_mean


def test_buffers_that_differ_from_the_first_ranks() -> None:
    (first, *_), (second, restored, expected) = ranks.run(2, buffers_of_ranks)
    assert first == {}
    assert list(second) == ["0.running_mean"]
    assert torch.equal(restored, expected)
