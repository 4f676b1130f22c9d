"""A scoring pass leaves no trace. Every guard has its negative control: without it, the same check fails."""

import copy
import pickle
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring import ScoringPass, no_trace, scoring_pass
from litselect.scoring.no_trace import NoTrace, TraceMemory
from litselect.scoring.numpy_stream import NumpyStream
from litselect.scoring.tensor_copies import TensorCopies

X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


class Inner(nn.Module):
    """A submodule with a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.calls = 0
        self.cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache = x
        return self.layer(x)


class Frozen(nn.Module):
    """Refuses to leave eval mode, as frozen backbones do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        super().train(False)

    def train(self, mode: bool = True) -> "Frozen":
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Busy(nn.Module):
    """A module whose step touches all that a step can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.frozen = Inner(), Frozen()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.still = nn.Dropout(0.5).eval()  # in eval mode within a module in train mode
        self.head = nn.Linear(4, 3)
        self.accuracy = torchmetrics.MeanMetric()
        self.listed = torchmetrics.CatMetric()
        self.several = torchmetrics.MetricCollection({"a": torchmetrics.SumMetric(), "b": torchmetrics.SumMetric()})
        self.register_buffer("moved", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("late", None)
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.count = 0
        self.outputs: list[Any] = ["before"]
        self.table: dict[str, Any] = {"kept": 1, "tensor": torch.zeros(1)}
        self.nested: defaultdict[str, list[Any]] = defaultdict(list, train=[1])
        self.ordered, self.counter = OrderedDict(a={1}), Counter(a=1)
        self.recent, self.seen = deque([1, 2], maxlen=2), {1}
        self.running = torch.zeros(())
        self.generator, self.numpy_generator = torch.Generator(), np.random.default_rng(0)
        self.python_generator = random.Random(0)
        self.fails = False

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        x = x + torch.randn_like(x) * float(np.random.rand()) * random.random()  # noqa: NPY002
        x = x + torch.randn(x.shape, generator=self.generator) * self.python_generator.random()
        x = x * self.numpy_generator.random()
        logits = self.head(self.drop(self.norm(self.still(self.frozen(self.inner(x))))))
        loss = F.cross_entropy(logits, y)
        self.touch(loss)
        if self.fails:
            raise RuntimeError("the step fails")
        return loss

    def touch(self, loss: Tensor) -> None:
        for metric in (self.accuracy, self.listed, self.several):
            metric(loss.detach())
        self.moved += 1
        self.hidden.add_(1)
        self.replaced = self.replaced + 1
        self.late = torch.ones(3)
        with torch.no_grad():
            self.average.mul_(0.9).add_(loss)
        self.running += loss
        self.inner.register_buffer("added", torch.ones(1))
        self.count += 1
        self.fresh = "an attribute that was not there"
        self.outputs.append(loss)
        self.table["kept"], self.table["new"] = 2, 3
        self.table["tensor"] += 1
        self.nested["train"].append(2)
        self.nested["val"].append(3)
        self.ordered["a"].add(2)
        self.counter.update("ab")
        self.recent.append(3)
        self.seen.add(2)
        self.eval() if self.training else self.train()


def plain(value: Any) -> Any:
    """A copy of plain values, shape by shape."""
    if isinstance(value, Tensor):
        return (str(value.dtype), value.requires_grad, value.is_leaf, value.tolist())
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, dict):
        return (type(value).__name__, {key: plain(item) for key, item in value.items()})
    if isinstance(value, (list, tuple, deque)):
        return (type(value).__name__, [plain(item) for item in value])
    return value if isinstance(value, (int, float, str, set, type(None))) else id(value)


_HOOKS = ("_hooks", "_backward", "_state_dict", "_load_state", "_modules", "_non_persistent_buffers_set")


def trace(module: nn.Module) -> dict[str, Any]:
    """All that a pass could leave behind."""
    found: dict[str, Any] = {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate(),
        "state_dict": {key: plain(value) for key, value in module.state_dict().items()},
    }
    for path, child in module.named_modules():
        for name, value in vars(child).items():
            if name.startswith("_") and any(part in name for part in _HOOKS):
                continue
            if name in ("_parameters", "_buffers"):
                for key, tensor in value.items():
                    found[f"{path}.{key}"] = plain(copy.copy(tensor) if tensor is None else tensor)
                    found[f"{path}.{key} is"] = id(tensor)
                    found[f"{path}.{key}.grad"] = plain(tensor.grad) if tensor is not None and tensor.is_leaf else None
            else:
                found[f"{path}.{name}"] = copy.deepcopy(plain(value))
                if not isinstance(child, torchmetrics.Metric):
                    found[f"{path}.{name} is"] = id(value) if isinstance(value, (list, dict, Tensor)) else None
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name, "-") != after.get(name, "-")}


def busy() -> Busy:
    module = Busy()
    F.cross_entropy(module.head(module.norm(X)), Y).backward()  # gradients that must stay
    module.accuracy.update(torch.tensor(3.0))
    module.listed.update(torch.tensor(3.0))
    module.several.update(torch.tensor(3.0))
    return module


def score(module: Busy, mode: Any = "eval", gradients: bool = False) -> Any:
    return ScoringPass(mode)(module, (X, Y), len(X), step=module.training_step, gradients=gradients)


# ---------------------------------------------------------------------- nothing is left


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left(mode: str, training: bool, fails: bool) -> None:
    module = busy()
    module.training = training
    module.fails = fails
    before = trace(module)
    if fails:
        with pytest.raises(RuntimeError, match="the step fails"):
            score(module, mode)
    else:
        assert score(module, mode).shape == (8,)
    assert differences(before, trace(module)) == set()


def test_a_step_that_is_not_guarded_leaves_traces_everywhere() -> None:
    """What the tests above could not see, if it were not so."""
    module = busy()
    before = trace(module)
    with torch.no_grad():
        module.training_step((X, Y))
    left = " ".join(differences(before, trace(module)))
    for name in ("torch", "numpy", "python", ".training", ".moved", ".hidden", ".replaced is", ".late", ".average"):
        assert name in left
    for name in (".count", ".fresh", ".outputs", ".table", ".nested", ".ordered", ".counter", ".recent", ".seen"):
        assert name in left
    for name in (".running", ".generator", ".numpy_generator", ".python_generator", "inner.calls", "inner.cache"):
        assert name in left
    for name in ("norm.running_mean", "norm.num_batches_tracked", "accuracy.", "listed.", "several.", "inner.added"):
        assert name in left


def test_the_module_can_be_copied_and_pickled_afterwards() -> None:
    module = busy()
    before = copy.deepcopy(module.state_dict())
    score(module)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.state_dict().keys() == before.keys()
        assert all(torch.equal(twin.state_dict()[key], before[key]) for key in before)
    assert list(module.state_dict()) == list(before)


def test_it_can_be_copied_in_the_middle_of_a_step() -> None:
    module = busy()
    copies = []
    touch = module.touch
    module.touch = lambda loss: copies.append(copy.deepcopy(module.head))  # type: ignore
    score(module)
    module.touch = touch
    assert len(copies) == 1


# ---------------------------------------------------------------------- every guard, one off at a time


STATISTICS = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")


def nothing(*_: Any) -> Any:
    return lambda: None


def none(*_: Any) -> Any:
    return []


def set_for_good(modules: list[nn.Module], training: bool) -> Any:
    no_trace._put(modules, [training] * len(modules))
    return nothing()


class Forgetful(TensorCopies):
    """Copies nothing."""

    def save(self, tensors: list[Tensor]) -> None:
        pass


def forgetful() -> TraceMemory:
    return TraceMemory(Forgetful())


GUARDS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "random streams": ("_random_streams", none, "torch"),
    "flags": ("_flags", set_for_good, ".training"),
    "buffers": ("_buffers", nothing, ".moved"),
    "attributes": ("_attributes", none, ".count"),
    "contents": ("_contents", none, ".outputs"),
    "tensors": ("TraceMemory", forgetful, ".average"),
}


def without(patch: pytest.MonkeyPatch, helper: str, replacement: Callable[..., Any]) -> None:
    """Replace a guard wherever it is called from."""
    for module in (no_trace, scoring_pass):
        if hasattr(module, helper):
            patch.setattr(module, helper, replacement)


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_without_the_guard_a_trace_is_seen(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    helper, replacement, expected = GUARDS[name]
    without(monkeypatch, helper, replacement)
    module = busy()
    before = trace(module)
    score(module, mode)
    assert any(expected in left for left in differences(before, trace(module)))


def test_each_guard_covers_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm's statistics in train mode, metrics that list (torchmetrics appends or replaces the list: that
    depends on the version), and each of the random streams.
    """
    own = {
        "accuracy": torchmetrics.MeanMetric(),
        "listed": torchmetrics.CatMetric(),
        "several.a": torchmetrics.SumMetric(),
    }
    metrics = {f"{name}.{next(iter(metric._defaults))}" for name, metric in own.items()}  # versions name them otherwise
    generators = {".generator", ".python_generator", ".numpy_generator"}
    for helper, replacement, covered in (
        ("_buffers", nothing, {*STATISTICS, ".replaced is", ".late", "inner.added"}),
        ("TraceMemory", forgetful, {*STATISTICS, ".hidden", ".average", ".running"}),
        ("_random_streams", none, {"torch", "numpy", "python"}),
        ("_contents", none, {*generators, ".nested", ".table", ".ordered", ".recent", ".running"}),
        ("_attributes", none, {*metrics, "accuracy._update_count", "inner.calls", ".fresh", "inner.cache"}),
    ):
        with monkeypatch.context() as patch:
            without(patch, helper, replacement)
            module = busy()
            before = trace(module)
            score(module, "train")
            left = differences(before, trace(module))
        assert covered <= left, covered - left


# ---------------------------------------------------------------------- modes


def test_modes_inside() -> None:
    module = busy()
    for training in (True, False):
        with NoTrace(module, training=training):
            assert {child.training for child in module.modules()} == {training}
        assert module.training
        assert not module.frozen.training
        assert not module.still.training
    with NoTrace(module, training=None):
        assert module.training
        assert not module.still.training


# ---------------------------------------------------------------------- metrics


def test_metrics_go_on_as_if_nothing_had_been() -> None:
    module, twin = busy(), busy()
    for value in (1.0, 5.0):
        score(module)
        for other in (module, twin):
            other.accuracy(torch.tensor(value))
            other.listed(torch.tensor(value))
            other.several(torch.tensor(value))
    score(module)
    assert module.accuracy.compute() == twin.accuracy.compute() == 3.0
    assert torch.equal(module.listed.compute(), twin.listed.compute())
    assert module.several.compute() == twin.several.compute() == {"a": 9.0, "b": 9.0}


# ---------------------------------------------------------------------- buffers


def test_a_buffer_that_validation_left_as_an_inference_tensor() -> None:
    module = busy()
    with torch.inference_mode():
        module.replaced = torch.ones(2)
    score(module)
    assert module.replaced.tolist() == [1, 1]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated", "ignore:.*torch.jit.*is not supported")
def test_buffers_of_a_scripted_module() -> None:
    module = nn.Sequential(torch.jit.script(nn.BatchNorm1d(4)), nn.Linear(4, 3))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with NoTrace(module, training=True), torch.no_grad():
        module(X + 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_buffer_to_which_the_loss_was_added_has_no_graph() -> None:
    module = busy()
    score(module)
    assert not module.average.requires_grad
    assert module.average.grad_fn is None
    assert module.running.grad_fn is None


# ---------------------------------------------------------------------- manual optimization


class Manual(Busy):
    def training_step(self, batch: Any) -> Any:
        self.zero_grad(set_to_none=False)
        for parameter in self.inner.parameters():
            parameter.requires_grad = False  # as toggle_optimizer does
        loss = F.cross_entropy(self.head(self.inner(batch[0])), batch[1])
        if self.fails:
            raise RuntimeError("the step fails")
        loss.backward()
        raise AssertionError("the pass went on behind backward")


@contextmanager
def prepared(fails: bool = False) -> Iterator[tuple[Manual, dict[str, Any]]]:
    module = Manual()
    module.fails = fails
    F.cross_entropy(module.head(module.inner(X)), Y).backward()
    yield module, trace(module)


@pytest.mark.parametrize("fails", [False, True])
def test_manual_optimization_leaves_gradients_alone(fails: bool) -> None:
    with prepared(fails) as (module, before):
        kept = [parameter.grad for parameter in module.parameters()]
        if fails:
            with pytest.raises(RuntimeError, match="the step fails"):
                score(module, gradients=True)
        else:
            assert score(module, gradients=True).shape == (8,)
        assert differences(before, trace(module)) == set()
        assert all(a is b.grad for a, b in zip(kept, module.parameters(), strict=True))


def test_without_the_guard_gradients_are_zeroed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_trace, "_gradients", nothing)
    with prepared() as (module, before):
        score(module, gradients=True)
        left = differences(before, trace(module))
    assert "head.weight.grad" in left
    assert "inner.layer.weight" in left  # requires_grad


# ---------------------------------------------------------------------- what one pass leaves for the next


def test_memory_of_the_pass_before_holds_no_stale_content() -> None:
    """Buffers move between two passes, with a new version and without one, and are replaced by others."""
    module, memory = busy(), TraceMemory()
    for turn in range(4):
        module.norm(X + turn)
        module.average.data.fill_(turn)  # no new version
        module.running += 1
        module.moved = torch.full((2,), float(turn)) if turn % 2 else module.moved
        module.hidden.data = torch.full((2 + turn % 2,), float(turn))
        before = trace(module)
        assert ScoringPass("train").examine(module, (X, Y), 8, step=module.training_step, memory=memory) is not None
        assert differences(before, trace(module)) == set()


def test_copies_are_kept_for_the_next_pass() -> None:
    copies, tensors = TensorCopies(), [torch.zeros(3), torch.zeros(2, 2)]
    copies.save(tensors)
    places = [copy.data_ptr() for _, copy in copies._copies.values()]
    copies.save(tensors)
    assert [copy.data_ptr() for _, copy in copies._copies.values()] == places
    copies.save(tensors[:1])
    assert len(copies._copies) == 1


def numpy_state() -> str:
    return str(np.random.get_state(legacy=False))  # noqa: NPY002


@contextmanager
def own_numpy() -> Iterator[None]:
    generator, state = np.random.get_bit_generator(), np.random.get_state(legacy=False)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_bit_generator(generator)
        np.random.set_state(state)  # noqa: NPY002


DRAWS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "uniform": lambda: np.random.rand(3),  # noqa: NPY002
    "normal": lambda: np.random.randn(),  # noqa: NPY002 - makes two and keeps one
    "seed": lambda: np.random.seed(7),  # noqa: NPY002
    "other generator": lambda: np.random.set_bit_generator(np.random.PCG64(3)),
}


@pytest.mark.parametrize("before", list(DRAWS))
@pytest.mark.parametrize("inside", list(DRAWS))
def test_numpy_stream(before: str, inside: str) -> None:
    """Whatever was drawn before a pass and inside it, the pass after next included."""
    stream = NumpyStream()
    with own_numpy():
        for _ in range(3):
            DRAWS[before]()
            expected, generator = numpy_state(), np.random.get_bit_generator()
            stream.save()
            DRAWS[inside]()
            stream.restore()
            assert np.random.get_bit_generator() is generator
            assert numpy_state() == expected


def test_a_stream_that_stands_still_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_numpy():
        np.random.seed(0)  # noqa: NPY002
        stream, reads = NumpyStream(), []
        get = np.random.get_state
        monkeypatch.setattr(np.random, "get_state", lambda legacy: (reads.append(1), get(legacy))[1])
        for _ in range(3):
            stream.save()
            stream.restore()
        assert len(reads) == 1


def test_modules_are_found_in_torchs_order() -> None:
    module = busy()
    assert [id(child) for child in no_trace.modules_of(module)] == [id(child) for child in module.modules()]


def test_buffers_that_are_written_to_through_data() -> None:
    """As codebooks of vector quantisation are: no new version tells of it."""
    module = nn.Linear(2, 2)
    module.register_buffer("code", torch.zeros(3, 2))
    with NoTrace(module):
        module.code.data.add_(1)
    assert module.code.sum() == 0
