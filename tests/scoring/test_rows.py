"""Rows of a batch: counted, taken, put together, whatever the batch is made of."""

import copy
import dataclasses
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, MutableMapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from litselect.scoring import rows
from litselect.scoring.rows import columns_of, constants_of, count_rows, join, take, take_rows, with_columns


@dataclasses.dataclass
class Plain:
    x: Any
    y: Any


@dataclasses.dataclass
class Deriving(Plain):
    """With something of each row that is no field."""

    def __post_init__(self) -> None:
        self.more = self.x


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: Any
    y: Any


class Pair(NamedTuple):
    x: Any
    y: Any


class Bag(UserDict[str, Any]):
    """As BatchEncoding is: a UserDict with attributes beside the data."""

    def __init__(self, data: Any, note: str = "kept") -> None:
        super().__init__(data)
        self.note = note


class Shared(MutableMapping[str, Any]):
    """Its shallow copies share their items."""

    def __init__(self, items: Any) -> None:
        self.items_ = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self.items_[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.items_[key] = value

    def __delitem__(self, key: str) -> None:
        del self.items_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)


# ---------------------------------------------------------------------- an independent view of a structure


def open_up(node: Any) -> dict[Any, Any] | None:
    if isinstance(node, (Plain, Frozen, Slotted)):
        return {"x": node.x, "y": node.y}
    if isinstance(node, (dict, UserDict, Shared, MappingProxyType)):
        return {key: node[key] for key in node}
    if isinstance(node, (list, tuple)):
        return dict(enumerate(node))
    return None


def same(a: Any, b: Any) -> bool:
    """Deep equality: types, dtypes, values."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    inner = open_up(a)
    if inner is not None:
        other = open_up(b)
        return other is not None and list(inner) == list(other) and all(same(inner[key], other[key]) for key in inner)
    return bool(a == b)


def pick(column: Any, indices: list[int]) -> Any:
    """The slow reference: one row after the other."""
    if isinstance(column, torch.Tensor):
        return torch.stack([column[i] for i in indices])
    if isinstance(column, np.ndarray):
        return np.stack([column[i] for i in indices]).astype(column.dtype)
    return type(column)([column[i] for i in indices])


class Column:
    """Marks, in a plan, what has one entry per example."""

    def __init__(self, value: Any) -> None:
        self.value = value


def realise(plan: Any) -> Any:
    """The batch that a plan describes."""
    return shape(plan, lambda column: column.value)


def expected(plan: Any, indices: list[int]) -> Any:
    """What must be left of it."""
    return shape(plan, lambda column: pick(column.value, indices))


def shape(plan: Any, leaf: Any) -> Any:
    if isinstance(plan, Column):
        return leaf(plan)
    kind, children = plan if isinstance(plan, tuple) and len(plan) == 2 and callable(plan[0]) else (None, None)
    if kind is None:
        return plan
    return kind({key: shape(child, leaf) for key, child in children.items()})


def in_order(kind: Any) -> Any:
    return lambda children: kind(children.values())


def as_fields(kind: Any) -> Any:
    return lambda children: kind(*children.values())


def counting(children: dict[str, Any]) -> defaultdict[str, Any]:
    return defaultdict(list, children)


CONTAINERS = {
    "dict": dict,
    "list": in_order(list),
    "tuple": in_order(tuple),
    "named tuple": as_fields(Pair),
    "dataclass": as_fields(Plain),
    "frozen dataclass": as_fields(Frozen),
    "frozen dataclass with slots": as_fields(Slotted),
    "user dict": Bag,
    "ordered dict": OrderedDict,
    "default dict": counting,
    "mapping of its own": Shared,
    "mapping proxy": MappingProxyType,
}

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def filled(n: int, dtype: torch.dtype, *inner: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 100, (n, *inner), generator=generator).to(dtype)


# ---------------------------------------------------------------------- every structure


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_container_of_columns(name: str, n: int) -> None:
    plan = (CONTAINERS[name], {"x": Column(filled(n, torch.float32, 3)), "y": Column(filled(n, torch.int64))})
    batch = realise(plan)
    before = copy.deepcopy(batch) if name != "mapping proxy" else None
    assert count_rows(batch) == n
    chosen = [n - 1] if n < 3 else [0, n - 1]
    taken = take_rows(batch, torch.tensor(chosen))
    assert same(taken, expected(plan, chosen))
    if before is not None:
        assert same(batch, before)


def test_a_single_tensor() -> None:
    assert take_rows(torch.arange(5), torch.tensor([4])).tolist() == [4]
    assert count_rows(torch.zeros(5, 2)) == 5


def test_user_dicts_keep_their_attributes_and_default_dicts_their_factory() -> None:
    bag = Bag({"x": torch.arange(4)}, note="mine")
    assert take_rows(bag, torch.tensor([1])).note == "mine"
    counts: defaultdict[str, Any] = defaultdict(list, x=torch.arange(4))
    assert take_rows(counts, torch.tensor([1])).default_factory is list


def test_hugging_face_structures() -> None:
    from transformers import BatchEncoding
    from transformers.modeling_outputs import BaseModelOutput

    encoding = BatchEncoding({"input_ids": torch.arange(8).view(4, 2), "labels": torch.arange(4)})
    taken = take_rows(encoding, torch.tensor([1, 3]))
    assert isinstance(taken, BatchEncoding)
    assert taken["labels"].tolist() == [1, 3]
    assert taken.input_ids.tolist() == [[2, 3], [6, 7]]
    assert encoding["labels"].tolist() == [0, 1, 2, 3]
    output = BaseModelOutput(last_hidden_state=torch.arange(4.0))
    taken = take_rows(output, torch.tensor([2]))
    assert type(taken) is BaseModelOutput
    assert taken.last_hidden_state.tolist() == [2.0]
    assert output.last_hidden_state.tolist() == [0, 1, 2, 3]


def test_arrays_strings_and_what_belongs_to_the_whole_batch() -> None:
    marker = object()
    batch = {
        "x": torch.arange(6).view(3, 2),
        "array": np.array([1.0, 2.0, 3.0]),
        "words": np.array(["a", "bb", "ccc"]),
        "names": ["a", "b", "c"],
        "ids": (10, 11, 12),
        "missing": [None, None, None],
        "none": None,
        "scalar": torch.tensor(2.0),
        "array scalar": np.array(3),
        "number": 0.5,
        "text": "abc",
        "object": marker,
        "size": (224, 224),
        "empty": [],
    }
    taken = take_rows(batch, torch.tensor([0, 2]))
    assert taken["x"].tolist() == [[0, 1], [4, 5]]
    assert taken["array"].tolist() == [1.0, 3.0]
    assert taken["words"].tolist() == ["a", "ccc"]
    assert taken["names"] == ["a", "c"]
    assert taken["ids"] == (10, 12)
    assert taken["missing"] == [None, None]
    for name in ("none", "scalar", "array scalar", "number", "text", "object"):
        assert taken[name] is batch[name]
    assert taken["size"] == (224, 224)
    assert taken["empty"] == []


def test_ragged_lists_of_tensors() -> None:
    batch = ([torch.zeros(3, 5, size) for size in (4, 6, 8, 2)], torch.arange(4))
    images, labels = take_rows(batch, torch.tensor([1, 2]))
    assert [image.shape[2] for image in images] == [6, 8]
    assert labels.tolist() == [1, 2]


def test_images_in_a_list_beside_labels_in_a_list() -> None:
    """The colours of an image are no examples, though all tensors have three of them."""
    batch = ([torch.full((3, 5, 6), float(i)) for i in range(4)], [0, 1, 0, 1])
    assert count_rows(batch) == 4
    images, labels = take_rows(batch, torch.tensor([1, 2]))
    assert [image[0, 0, 0].item() for image in images] == [1, 2]
    assert labels == [1, 0]


def test_detection_targets() -> None:
    sizes = (1, 0, 5, 2)
    targets = [{"boxes": torch.full((m, 4), float(i)), "labels": torch.full((m,), i)} for i, m in enumerate(sizes)]
    for images in (torch.arange(4.0).view(4, 1, 1, 1), [torch.full((3, 4 + i, 4), float(i)) for i in range(4)]):
        taken_images, taken = take_rows((images, targets), torch.tensor([0, 2]))
        assert [float(image.flatten()[0]) for image in taken_images] == [0, 2]
        assert taken[0] is targets[0]
        assert taken[1] is targets[2]


def test_a_pair_of_columns_with_two_rows_is_a_pair() -> None:
    x, y = torch.arange(4.0).view(2, 2), torch.arange(2)
    for batch in ([x, y], (x, y), Pair(x, y), [x, None], [x, "text"]):
        taken = take_rows(batch, torch.tensor([1]))
        assert type(taken) is type(batch)
        assert len(taken) == 2
        assert taken[0].tolist() == [[2.0, 3.0]]


def test_a_named_tuple_is_never_a_column() -> None:
    batch = (torch.zeros(2, 3), Pair(0.5, True))
    assert take_rows(batch, torch.tensor([1]))[1] == Pair(0.5, True)


def test_one_row() -> None:
    taken = take_rows((torch.ones(1, 2), ["a"], 3), torch.tensor([0]))
    assert taken[1:] == (["a"], 3)


def test_indices_may_come_in_any_order_and_twice() -> None:
    assert take_rows({"x": torch.arange(3), "s": ["a", "b", "c"]}, torch.tensor([2, 0, 2]))["s"] == ["c", "a", "c"]


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("batch", [[], {}, None, "text", 3, ["a", "b"], {"x": torch.tensor(1.0)}, object()])
def test_without_tensors_there_are_no_rows(batch: Any) -> None:
    with pytest.raises(ValueError, match=rf"type {type(batch).__name__} was received.*Let the collate function return"):
        count_rows(batch)


@pytest.mark.parametrize(
    "batch",
    [
        (torch.zeros(5), torch.zeros(3)),
        (torch.zeros(5), torch.zeros(2)),  # two rows, two tensors: the pair is not a list of rows
        [torch.zeros(2, 2), torch.zeros(3)],
        {"x": torch.zeros(5), "y": torch.zeros(3)},
        Plain(torch.zeros(5), np.zeros(3)),
        {"x": torch.zeros(5), "inner": {"y": torch.zeros(1)}},
    ],
)
def test_rows_of_unequal_length(batch: Any) -> None:
    with pytest.raises(ValueError, match=r"entries of \d, \d rows were received: .*\(.*Pass what belongs to the whole"):
        count_rows(batch)


class Graphs:
    """Many examples in one object, as graph libraries make them."""

    def to(self, *_: Any, **__: Any) -> "Graphs":
        return self


@pytest.mark.parametrize("batch", [Graphs(), (Graphs(), torch.zeros(4)), {"x": [Graphs()], "y": torch.zeros(4)}])
def test_packed_examples_are_refused(batch: Any) -> None:
    with pytest.raises(ValueError, match=r"a Graphs was received, of which.*as a list, one entry per example"):
        count_rows(batch)


def test_a_graph_in_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one entry per example.*packed into one object.*pack them in training_step"):
        count_rows({"nodes": torch.zeros(9, 2), "edges": torch.zeros(2, 12), "y": torch.zeros(4)})


def test_the_message_shows_the_structure() -> None:
    with pytest.raises(ValueError, match=r"dict\(x: Tensor\(5, 2\), y: list\(0: ndarray\(3,\)\)\)"):
        count_rows({"x": torch.zeros(5, 2), "y": [np.zeros(3)]})


# ---------------------------------------------------------------------- any structure


MARKER, SCALAR = object(), torch.tensor(1.5)


def tensors(dtype: torch.dtype, *inner: int) -> Any:
    return lambda n: Column(filled(n, dtype, *inner))


def arrays(dtype: str) -> Any:
    return lambda n: Column(np.arange(n).astype(dtype))


def values(value: Any) -> Any:
    return lambda n: Column([value] * n)


def whole(value: Any) -> Any:
    return lambda n: value


LEAVES = [
    *(tensors(dtype, *inner) for dtype in DTYPES for inner in ((), (2,), (1, 3), (0,))),
    *(arrays(dtype) for dtype in ("float64", "int32", "bool", "complex128", "<U4", "O")),
    *(values(value) for value in ("s", None, 2.5)),
    lambda n: Column([f"row {i}" for i in range(n)]),
    lambda n: Column([torch.arange(float(i % 3 + 1)) for i in range(n)]) if n > 3 else None,
    *(whole(value) for value in (None, "constant", 7, 0.25, True, MARKER, SCALAR, np.float32(3))),
]


def inside(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    two = st.fixed_dictionaries({"x": children, "y": children})
    many = st.dictionaries(st.sampled_from("abcd"), children, min_size=1, max_size=4)
    return st.tuples(st.sampled_from(list(CONTAINERS.values())), two) | st.tuples(st.just(dict), many)


# A tensor stands first: it fixes N. Structures that can be read in two ways are left to the tests above.
NESTS = st.tuples(
    st.sampled_from(list(CONTAINERS.values())),
    st.fixed_dictionaries(
        {"x": st.just(tensors(torch.float32, 2)), "y": st.recursive(st.sampled_from(LEAVES), inside, max_leaves=8)}
    ),
)


def of_size(nest: Any, n: int) -> Any:
    """The plan of a batch of N rows."""
    if not isinstance(nest, tuple):
        return nest(n)
    return (nest[0], {key: of_size(child, n) for key, child in nest[1].items()})


def only_values(plan: Any, n: int) -> bool:
    """Whether a list in the plan could be taken for a column (values alone, as many as rows)."""
    if isinstance(plan, Column) or open_up(plan) is None or not (isinstance(plan, tuple) and callable(plan[0])):
        return False
    batch = realise(plan)
    listed = isinstance(batch, (list, tuple)) and not isinstance(batch, Pair)
    tensors = any(isinstance(leaf, (torch.Tensor, np.ndarray)) and leaf.ndim for leaf in flat(batch))
    return (listed and len(batch) == n and not tensors) or any(only_values(child, n) for child in plan[1].values())


def flat(node: Any) -> list[Any]:
    inner = open_up(node)
    return [node] if inner is None else [leaf for child in inner.values() for leaf in flat(child)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, int, list[int]]:
    n = draw(st.integers(1, 12) | st.integers(1, 300))
    plan = of_size(draw(NESTS), n)
    assume(not only_values(plan, n))
    chosen = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=min(n, 8), unique=True))
    assume(not only_values(plan, len(chosen)))  # nor once that many rows are left
    return plan, n, sorted(chosen)


def snapshot(node: Any) -> Any:
    """A copy that shares no tensor with the original."""
    kinds = (torch.Tensor, np.ndarray)
    return [copy.deepcopy(leaf) if isinstance(leaf, kinds) else leaf for leaf in flat(node)]


def check_rows(plan: Any, n: int, chosen: list[int]) -> None:
    batch = realise(plan)
    originals, contents = flat(batch), snapshot(batch)
    assert count_rows(batch) == n
    taken = take_rows(batch, torch.tensor(chosen))
    assert same(taken, expected(plan, chosen))
    left = constants_of(taken, len(chosen))
    for constant in constants_of(batch, n):
        if constant is MARKER or constant is SCALAR:
            assert any(constant is other for other in left)
    assert all(a is b for a, b in zip(originals, flat(batch), strict=True))
    assert all(a is b or same(a, b) for a, b in zip(contents, flat(batch), strict=True))


@settings(max_examples=250, deadline=None)
@given(cases())
def test_rows_are_those_of_every_leaf_and_nothing_else_changes(case: tuple[Any, int, list[int]]) -> None:
    check_rows(*case)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_columns_taken_out_and_put_back_are_the_batch(case: tuple[Any, int, list[int]]) -> None:
    plan, n, chosen = case
    batch = realise(plan)
    columns = columns_of(batch, n)
    assert same(with_columns(batch, n, columns), batch)
    pieces = [take(column, torch.tensor(chosen)) for column in columns]
    assert same(with_columns(batch, n, pieces), take_rows(batch, torch.tensor(chosen)))
    halves = [(take(column, torch.arange(n // 2)), take(column, torch.arange(n // 2, n))) for column in columns]
    assert same(with_columns(batch, n, [join(list(half)) for half in halves]), batch)


def off_by_one(column: Any, indices: torch.Tensor) -> Any:
    wrong = isinstance(column, torch.Tensor) and column.dtype == torch.int64
    return take(column, (indices + 1) % len(column) if wrong else indices)


def in_place(column: Any, indices: torch.Tensor) -> Any:
    taken = take(column, indices)
    if isinstance(column, torch.Tensor):
        column.zero_()
    return taken


def of_another_type(column: Any, indices: torch.Tensor) -> Any:
    taken = take(column, indices)
    return taken.float() if isinstance(taken, torch.Tensor) else taken


@pytest.mark.parametrize("fault", [off_by_one, in_place, of_another_type])
def test_the_property_catches(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = (dict, {"x": Column(filled(5, torch.float32)), "y": (in_order(list), {0: Column(filled(5, torch.int64))})})
    check_rows(plan, 5, [1, 3])
    monkeypatch.setattr(rows, "take", fault)
    with pytest.raises(AssertionError):
        check_rows(plan, 5, [1, 3])


# ---------------------------------------------------------------------- join


def test_join() -> None:
    assert join([torch.tensor([1]), torch.tensor([2, 3])]).tolist() == [1, 2, 3]
    assert join([np.array(["a"]), np.array(["bcd"])]).tolist() == ["a", "bcd"]
    assert join([["a"], ["b", None]]) == ["a", "b", None]
    assert join([(1,), (2,)]) == (1, 2)


def test_rows_of_unequal_shape_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match=r"one shape, but got \(1, 3\), \(2, 4\)\. Pad .* or train without refill"):
        join([torch.zeros(1, 3), torch.zeros(2, 4)])


def test_rows_of_images_keep_their_layout() -> None:
    """A network that trains in channels_last gets chosen rows in that layout, as it would get a whole batch."""
    images = torch.rand(6, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    taken = take_rows((images, torch.arange(6)), torch.tensor([0, 4]))[0]
    assert taken.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(taken, images[[0, 4]])
    assert take_rows((images.contiguous(),), torch.tensor([0, 4]))[0].is_contiguous()


def test_what_a_dataclass_derives_is_a_column_too() -> None:
    batch = Deriving(torch.arange(4.0), torch.arange(4))
    taken = take_rows(batch, torch.tensor([1, 3]), 4)
    assert taken.more.tolist() == taken.x.tolist() == [1.0, 3.0]
    assert batch.more.tolist() == [0.0, 1.0, 2.0, 3.0]


@dataclasses.dataclass
class Describing(Plain):
    """With something of the whole batch that is no field."""

    def __post_init__(self) -> None:
        self.classes, self.itself = torch.arange(3), self


def test_what_a_dataclass_derives_of_the_whole_batch_is_handed_on() -> None:
    batch = Describing(torch.arange(4.0), torch.arange(4))
    assert count_rows(batch) == 4
    taken = take_rows(batch, torch.tensor([1, 3]), 4)
    assert (taken.y.tolist(), taken.classes.tolist()) == ([1, 3], [0, 1, 2])
