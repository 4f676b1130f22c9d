"""State that loads, but is not what we saved: an error that says so, before anything has changed."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from litselect.callbacks import Counters, ExampleSelection, SelectiveBackprop
from litselect.callbacks.check_state import REMEDY, check_state
from litselect.callbacks.random_streams import restore_streams
from litselect.callbacks.refill_queue import RefillQueue
from litselect.callbacks.run_state import own_state, pick_state
from litselect.scoring.random_streams import current_streams
from tests.callbacks.kit import differences, random_streams

CPU = torch.device("cpu")
ROWS = {"x": torch.arange(4.0), "array": np.arange(4), "names": list("abcd")}


def queue_of(batch: dict[str, Any], n: int = 4) -> RefillQueue:
    queue = RefillQueue()
    queue.push(batch, n, torch.arange(n))
    return queue


def changed(state: dict[str, Any], **values: Any) -> dict[str, Any]:
    """`state` with other values; without those that are ..."""
    return {name: value for name, value in {**state, **values}.items() if value is not ...}


# ---------------------------------------------------------------------- names and types


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1], "must be a dict, but a list was received"),
        ({"n": 1, "on": True}, "must hold 'n', 'on', 'maybe', but got no 'maybe'"),
        ({"n": 1, "on": True, "maybe": None, "more": 2}, "but got an unknown 'more'"),
        ({"n": 1.0, "on": True, "maybe": None}, "but got 'n' of type float instead of int"),
        ({"n": True, "on": True, "maybe": None}, "but got 'n' of type bool instead of int"),
        ({"n": None, "on": True, "maybe": None}, "but got 'n' of type NoneType instead of int"),
        ({"n": 1, "on": True, "maybe": 2}, "but got 'maybe' of type int instead of NoneType or dict"),
        ({"n": 1, "on": 1}, "but got 'on' of type int instead of bool, no 'maybe'"),
    ],
)
def test_other_names_or_types(state: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"The state of a thing .*{message}. {REMEDY}"):
        check_state("a thing", state, {"n": 0, "on": False, "maybe": None})


@pytest.mark.parametrize("maybe", [None, {}])
def test_what_is_as_expected_passes(maybe: Any) -> None:
    state = {"n": 5, "on": True, "maybe": maybe}
    assert check_state("a thing", state, {"n": 0, "on": False, "maybe": None}) is state


# ---------------------------------------------------------------------- counters, queue, streams

WRONG_COUNTERS = {
    "a foreign name": (changed(vars(Counters()), rows=3), "unknown 'rows'"),
    "a missing name": (changed(vars(Counters()), seen=...), "no 'seen'"),
    "text": (changed(vars(Counters()), seen="3"), "'seen' of type str instead of int"),
    "a tensor": (changed(vars(Counters()), steps=torch.tensor(3)), "'steps' of type Tensor instead of int"),
    "another thing": (queue_of(ROWS).state_dict(), "no 'scored'"),
}


@pytest.mark.parametrize("case", WRONG_COUNTERS)
def test_wrong_counters(case: str) -> None:
    state, message = WRONG_COUNTERS[case]
    counters = Counters(seen=7)
    with pytest.raises(ValueError, match=f"The state of counters must hold .* but got .*{message}"):
        counters.load_state_dict(state)
    assert counters == Counters(seen=7)


QUEUE = queue_of(ROWS).state_dict()
X, ARRAY, NAMES = QUEUE["columns"]
WRONG_QUEUES = {
    "a foreign name": (changed(QUEUE, size=4), "unknown 'size'"),
    "a missing name": (changed(QUEUE, dropped=...), "no 'dropped'"),
    "columns by name": (changed(QUEUE, columns={"x": X}), "'columns' of type dict instead of list"),
    "rows that are a tensor": (changed(QUEUE, rows=torch.tensor(4)), "'rows' of type Tensor instead of int"),
    "more rows than there are": (changed(QUEUE, rows=5), "5 rows, 0 dropped, and columns of .4, 4, 4."),
    "fewer rows than there are": (changed(QUEUE, rows=3), "3 rows"),
    "one short column": (changed(QUEUE, columns=[X[:3], ARRAY, NAMES]), r"columns of \[3, 4, 4\]"),
    "rows without columns": (changed(QUEUE, columns=[]), r"4 rows, 0 dropped, and columns of \[\]"),
    "fewer than no rows": (changed(QUEUE, rows=-1, columns=[]), "-1 rows"),
    "fewer than none dropped": (changed(QUEUE, dropped=-1), "-1 dropped"),
    "a column that is a number": (changed(QUEUE, columns=[3]), "array with one entry per row.* a int was"),
    "a column that is a text": (changed(QUEUE, columns=["abcd"]), "a str was received"),
    "a column without rows": (changed(QUEUE, columns=[torch.tensor(1.0)]), "a Tensor was received"),
    "an array without rows": (changed(QUEUE, columns=[changed(ARRAY, array=3)]), "a ndarray was received"),
    "an array of no dtype": (changed(QUEUE, columns=[changed(ARRAY, dtype="int17")]), "a dict was received"),
    "an array of another dtype": (changed(QUEUE, columns=[changed(ARRAY, array=NAMES)]), "a dict was received"),
    "a foreign column": (changed(QUEUE, columns=[changed(ARRAY, order=1)]), "a dict was received"),
    "an array without a dtype": (changed(QUEUE, columns=[changed(ARRAY, dtype=...)]), "a dict was received"),
}


@pytest.mark.parametrize("case", WRONG_QUEUES)
def test_wrong_queues(case: str) -> None:
    state, message = WRONG_QUEUES[case]
    queue = queue_of({"x": torch.zeros(2)}, 2)
    before = queue.state_dict()
    with pytest.raises(ValueError, match=message) as caught:
        queue.load_state_dict(state)
    assert REMEDY in str(caught.value)
    assert differences(queue.state_dict(), before) == []


OTHER_BATCHES = {
    "other numbers": (changed(ROWS, x=torch.arange(4)), "3 columns .torch.float32, array of kind i, list.*torch.int64"),
    "values for a tensor": (changed(ROWS, x=list("efgh")), "by one of 3 .list, array of kind i, list."),
    "a tensor for values": (changed(ROWS, names=torch.zeros(4)), "by one of 3 .torch.float32, array of kind i, torch"),
    "an array of texts": (changed(ROWS, array=np.array(list("efgh"))), "torch.float32, array of kind U, list."),
    "a tuple": (changed(ROWS, names=tuple("efgh")), "torch.float32, array of kind i, tuple."),
    "fewer columns": (changed(ROWS, names=...), "by one of 2"),
    "another order": ({name: ROWS[name] for name in ("array", "x", "names")}, "by one of 3 .array of kind i, torch"),
}


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("case", OTHER_BATCHES)
def test_rows_that_wait_do_not_fit_the_next_batch(case: str, resumed: bool) -> None:
    """To put two kinds of columns together would turn labels into floats, or a list into one of tensors."""
    batch, message = OTHER_BATCHES[case]
    queue = queue_of(ROWS)
    if resumed:
        queue = RefillQueue()
        queue.load_state_dict(QUEUE)
    with pytest.raises(ValueError, match=f"refill=True puts rows .*{message}"):
        queue.push(batch, 4, torch.arange(4))
    queue.push(ROWS, 4, torch.arange(4))
    assert len(queue) == 8


def test_texts_of_another_length_fit() -> None:
    queue = queue_of({"x": torch.zeros(2), "words": np.array(["a", "b"])}, 2)
    batch = {"x": torch.zeros(2), "words": np.array(["long", "longer"])}
    queue.push(batch, 2, torch.arange(2))
    assert queue.pop(4, batch, 2)["words"].tolist() == ["a", "b", "long", "longer"]


STREAMS = current_streams(CPU)
WRONG_STREAMS = {
    "none of torch": changed(STREAMS, torch=...),
    "a short one of torch": changed(STREAMS, torch=torch.zeros(3, dtype=torch.uint8)),
    "numbers for that of torch": changed(STREAMS, torch=[1, 2]),
    "a part of that of numpy": changed(STREAMS, numpy=STREAMS["numpy"][:3]),
    "another algorithm of numpy": changed(STREAMS, numpy=["PCG64", *STREAMS["numpy"][1:]]),
    "a short one of Python": changed(STREAMS, python=(3, (1, 2), None)),
    "a list": [1],
}


@pytest.mark.parametrize("case", WRONG_STREAMS)
def test_wrong_streams(case: str) -> None:
    with pytest.raises(ValueError, match=r"The state of random streams must hold .*, but got .* \(\w+: .*\)") as caught:
        restore_streams(WRONG_STREAMS[case], CPU)
    assert REMEDY in str(caught.value)


# ---------------------------------------------------------------------- all of it


def callback_of() -> SelectiveBackprop:
    return SelectiveBackprop(keep=0.5, refill=True, warmup=0, seed=0)


def whole_state() -> dict[str, Any]:
    """A checkpoint of two ranks."""
    callback = callback_of()
    callback.selector(losses=torch.rand(8))
    callback.queue, callback.counters = queue_of(ROWS), Counters(seen=4)
    ranks = [own_state(callback, None, CPU) for _ in range(2)]
    return copy.deepcopy({**callback.state_dict(), "ranks": ranks})


def put(*place: Any, value: Any = ...) -> Callable[[Any], Any]:
    """Changes a value deep within a state, or takes it away."""

    def edit(state: Any) -> Any:
        *way, last = place
        for step in way:
            state = state[step]
        if value is ...:
            del state[last]
        else:
            state[last] = value

    return edit


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "of an earlier version": (put("ranks"), "The state of SelectiveBackprop must hold .*, but got no 'ranks'"),
    "with more": (
        put("momentum", value=3),
        "The state of SelectiveBackprop .* an unknown 'momentum'",
    ),
    "a selector": (put("selector", value={}), "'selector' of type dict instead of str"),
    "ranks by number": (put("ranks", value={0: {}}), "'ranks' of type dict instead of list"),
    "no ranks": (put("ranks", value=[]), "at least one rank, but got none"),
    "a rank": (put("ranks", 0, value=3), "The state of rank 0 must be a dict, but a int was received"),
    "a part of a rank": (put("ranks", 0, "verified"), "The state of rank 0 must hold .*, but got no 'verified'"),
    "more of a rank": (put("ranks", 0, "queues", value=[]), "The state of rank 0 .* an unknown 'queues'"),
    "a size": (put("ranks", 0, "training_batch_size", value=None), "'training_batch_size' of type NoneType instead of"),
    "the selector": (put("ranks", 0, "selector", value=None), "'selector' of type NoneType instead of dict"),
    "streams": (put("ranks", 0, "streams", value=[1]), "'streams' of type list instead of NoneType or dict"),
    "counters": (put("ranks", 0, "counters", "seen"), "The state of counters .* no 'seen'"),
    "the queue": (put("ranks", 0, "queue", "rows", value=9), "got 9 rows"),
    "buffers": (
        put("ranks", 0, "buffers", "x", value=[1]),
        "The state of buffers .* 'x' of type list instead of",
    ),
    "another rank": (put("ranks", 1, "counters", "seen"), "The state of counters .* no 'seen'"),
    "another rank's queue": (put("ranks", 1, "queue", "rows", value=9), "got 9 rows"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_state(case: str) -> None:
    edit, message = WRONG[case]
    state = whole_state()
    edit(state)
    callback = callback_of()
    callback._world_size = 2
    before = own_state(callback, None, None)
    with pytest.raises(ValueError, match=message) as caught:
        callback.load_state_dict(state)
    assert REMEDY in str(caught.value)
    assert differences(own_state(callback, None, None), before) == []


def test_what_was_saved_is_right() -> None:
    callback = callback_of()
    callback._world_size = 2
    callback.load_state_dict(whole_state())
    assert (callback.counters.seen, len(callback.queue)) == (4, 4)


def test_looking_at_a_state_leaves_everything_alone() -> None:
    callback, state, before = callback_of(), whole_state(), random_streams()
    whole = copy.deepcopy(state)
    pick_state(state, callback, 0, 2)
    assert differences(state, whole) == []
    assert differences(before, random_streams()) == []
    assert isinstance(callback, ExampleSelection)


@pytest.mark.parametrize("state", [{}, {"losses": 3}, {"generator": torch.zeros(3, dtype=torch.uint8)}, {"losses": {}}])
def test_wrong_state_of_the_selector(state: Any) -> None:
    whole = whole_state()
    whole["ranks"][0]["selector"] = state
    callback = callback_of()
    callback._world_size = 2
    with pytest.raises(ValueError, match=r"a selector must be one that LossPercentile\(.*\) can go on from") as caught:
        callback.load_state_dict(whole)
    assert REMEDY in str(caught.value)
