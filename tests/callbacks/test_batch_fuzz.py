"""Any structure, size and loss through a Trainer: the step gets the chosen rows of every leaf, nothing else changes.

`tests/scoring/test_rows.py` fuzzes the rows alone; its plans and its slow reference are what is used here.
"""

import importlib
import itertools
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from litselect.callbacks import ExampleSelection, nonfinite, selection_session
from litselect.scoring.rows import constants_of
from litselect.selectors import KeepAll, LossPercentile, RandomSubset, TopLoss
from tests.callbacks.kit import Kit, Notes, loader_of
from tests.scoring.test_rows import (
    MARKER,
    NESTS,
    SCALAR,
    Column,
    expected,
    filled,
    flat,
    of_size,
    only_values,
    pick,
    realise,
    same,
    shape,
    snapshot,
)

KIT = Kit(importlib.import_module("pytorch_lightning"))
NAN, INF = math.nan, math.inf


class Receives:
    """Notes what its training step gets and what the hooks get. Batches stay where they are, whatever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.received, self.ended = Notes(), Notes()

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.received.append((batch_idx, batch))
        return self.weight * 1.0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ended.append(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


# ---------------------------------------------------------------------- what is generated

VALUES = {
    "ties": st.sampled_from([0.5, 1.0, 1.0, 2.0]),
    "constant": st.just(1.25),
    "zeros": st.sampled_from([0.0, -0.0, 0.0, 1e-3]),
    "tiny": st.sampled_from([0.0, 1e-45, 1e-38, 1e-8]),
    "huge": st.sampled_from([3e38, 3.4e38, 1e38, 1.0, -3e38]),
    "any": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "some broken": st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, NAN, INF, -INF]),
    "one broken in a hundred": st.integers(0, 99).map(lambda i: NAN if i == 0 else i / 7),
    "all broken": st.sampled_from([NAN, INF]),
}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
SELECTORS = {
    "TopLoss": lambda keep: TopLoss(keep=keep),
    "LossPercentile": lambda keep: LossPercentile(keep=keep, history=64, seed=7),
    "RandomSubset": lambda keep: RandomSubset(keep=keep, seed=7),
    "KeepAll": lambda keep: KeepAll(),
}


@dataclass
class Case:
    """One batch: its plan, N, the losses that the loss function answers."""

    plan: Any
    n: int
    losses: torch.Tensor


SIZES = st.integers(1, 12) | st.integers(1, 300)


@st.composite
def losses(draw: st.DrawFn, n: int) -> torch.Tensor:
    kind = draw(st.sampled_from(list(VALUES)))
    dtype = draw(st.sampled_from(DTYPES))
    event(f"losses: {kind}")
    few = draw(st.lists(VALUES[kind], min_size=min(n, 12), max_size=min(n, 12)))
    order = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, len(few), n)
    order[: len(few)] = np.arange(len(few))
    values = torch.tensor([few[i] for i in order], dtype=torch.float64)
    if dtype is torch.int64:
        return values.nan_to_num(0, 9, -9).clamp(-1000, 1000).to(dtype)
    return values.to(dtype)


@st.composite
def runs(draw: st.DrawFn, one_structure: bool = False) -> list[Case]:
    """Up to four batches."""
    cases: list[Case] = []
    nest = draw(NESTS)
    for _ in range(draw(st.integers(1, 4))):
        n = draw(SIZES.filter(lambda n: n > 3) if one_structure else SIZES)
        plan = of_size(nest if one_structure else draw(NESTS), n)
        assume(not only_values(plan, n))
        cases.append(Case(plan, n, draw(losses(n))))
    return cases


# ---------------------------------------------------------------------- a slow reference


def rows_of_top_loss(values: list[float], k: int, policy: str) -> list[int] | None:
    """The rows that are to be trained, or None where that is an error."""
    rows = range(len(values))
    bad = [i for i in rows if not math.isfinite(values[i])]
    good = [i for i in rows if math.isfinite(values[i])]
    if bad and policy == "raise":
        return None
    forced = bad[:k] if policy == "train" else []
    best = sorted(good, key=lambda i: (-values[i], i))[: k - len(forced)]
    return sorted([*forced, *best]) or None


def may_be_chosen(values: list[float], chosen: list[int], k: int, policy: str) -> bool:
    """Whether any selector may choose these rows."""
    good = [i for i, value in enumerate(values) if math.isfinite(value)]
    bad = [i for i in range(len(values)) if i not in set(good)]
    if policy == "drop":
        return len(chosen) == min(k, len(good)) and set(chosen) <= set(good)
    return len(chosen) == k and set(bad[:k]) <= set(chosen)


# ---------------------------------------------------------------------- the run


class Watch:
    """Notes the choice of every batch."""

    def __init__(self, callback: ExampleSelection) -> None:
        super().__init__()
        self.callback, self.chosen = callback, []

    def on_train_batch_end(self, *_: Any) -> None:
        selection = self.callback._session.selection
        self.chosen.append(None if selection is None else selection.indices.tolist())


def train(cases: list[Case], callback: ExampleSelection) -> Any:
    """Train on the batches, answer with them, the module, the choices and the error, if any."""
    batches = [realise(case.plan) for case in cases]
    originals, contents = [flat(batch) for batch in batches], [snapshot(batch) for batch in batches]
    net, watch = KIT.make(Receives), KIT.callback(Watch, callback)
    callback.loss_fn = lambda module, _: cases[module.trainer.fit_loop.epoch_loop.batch_idx].losses
    error = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            KIT.fit(net, callback, watch, data=loader_of(batches))
        except FloatingPointError as caught:
            error = caught
    for batch, original, content in zip(batches, originals, contents, strict=True):
        assert all(a is b for a, b in zip(original, flat(batch), strict=True))
        assert all(a is b or same(a, b) for a, b in zip(content, flat(batch), strict=True))
    assert all(one is other for one, other in zip(net.ended, batches, strict=False))
    return batches, net, watch.chosen, error


def check_run(cases: list[Case], selector: str, keep: float, policy: Any) -> None:
    """The property."""
    callback = ExampleSelection(SELECTORS[selector](keep), nonfinite=policy)
    batches, net, choices, error = train(cases, callback)
    looks = bool(callback.selector.needs)
    for i, case in enumerate(cases):
        values, k = case.losses.float().tolist(), callback.selector.count(case.n)
        top = rows_of_top_loss(values, k, policy) if looks else []
        if top is None:
            assert isinstance(error, FloatingPointError)
            assert len(net.received) == len(choices) == i  # not one step more
            return
        chosen = choices[i]
        assert chosen == sorted(set(chosen))
        if selector == "TopLoss":
            assert chosen == top
        elif looks:
            assert may_be_chosen(values, chosen, k, policy)
        else:
            assert len(chosen) == k
        index, got = net.received[i]
        assert index == i
        if len(chosen) == case.n:
            assert got is batches[i]
            continue
        assert same(got, expected(case.plan, chosen))
        kept = constants_of(got, len(chosen))
        for constant in constants_of(batches[i], case.n):
            if constant is MARKER or constant is SCALAR:
                assert any(constant is other for other in kept)
    assert error is None
    assert len(net.received) == len(net.ended) == len(cases)
    counters = callback.counters
    assert (counters.seen, counters.trained) == (sum(c.n for c in cases), sum(map(len, choices)))


KEEPS = st.sampled_from([0.01, 1 / 3, 0.5, 0.9, 1.0])
HOW = {"selector": st.sampled_from(list(SELECTORS)), "keep": KEEPS, "policy": st.sampled_from(nonfinite.POLICIES)}
QUICK = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@QUICK
@given(cases=runs(), **HOW)
def test_the_step_gets_the_chosen_rows_and_nothing_else_changes(
    cases: Any, selector: str, keep: float, policy: Any
) -> None:
    check_run(cases, selector, keep, policy)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(QUICK, max_examples=3000)
@given(cases=runs(), **HOW)
def test_soak(cases: Any, selector: str, keep: float, policy: Any) -> None:
    check_run(cases, selector, keep, policy)


# ---------------------------------------------------------------------- refilled batches


def joined(pieces: list[Any]) -> Any:
    if isinstance(pieces[0], torch.Tensor):
        return torch.cat(pieces)
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate(pieces)
    return type(pieces[0])(itertools.chain(*pieces))


def check_refill(cases: list[Case], keep: float) -> None:
    """First in, first out: every step is made of the oldest rows that were chosen, in every leaf."""
    callback = ExampleSelection(TopLoss(keep=keep), refill=True, nonfinite="train")
    _, net, choices, error = train(cases, callback)
    assert error is None
    waiting: list[list[Any]] | None = None  # of every column
    steps, size = iter(net.received), 0
    for i, case in enumerate(cases):
        size = max(size, case.n)
        assert choices[i] == rows_of_top_loss(case.losses.float().tolist(), callback.selector.count(case.n), "train")
        columns: list[Any] = []
        shape(case.plan, lambda column, i=i, columns=columns: columns.append(pick(column.value, choices[i])))
        waiting = columns if waiting is None else [joined([a, b]) for a, b in zip(waiting, columns, strict=True)]
        if len(waiting[0]) >= size:
            index, got = next(steps)
            first = iter([column[:size] for column in waiting])
            assert index == i
            assert same(got, shape(case.plan, lambda _, first=first: next(first)))
            waiting = [column[size:] for column in waiting]
    assert next(steps, None) is None
    assert len(callback.queue) == len(waiting[0] if waiting else [])


@settings(QUICK, max_examples=40)
@given(cases=runs(one_structure=True), keep=KEEPS)
def test_refilled_batches_are_of_the_chosen_rows(cases: Any, keep: float) -> None:
    check_refill(cases, keep)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(QUICK, max_examples=1500)
@given(cases=runs(one_structure=True), keep=KEEPS)
def test_soak_of_refilling(cases: Any, keep: float) -> None:
    check_refill(cases, keep)


# ---------------------------------------------------------------------- the property catches

TAKE = selection_session.take_rows
FINITE = nonfinite.select_finite


def simple() -> list[Case]:
    columns = (dict, {"x": Column(filled(8, torch.int64)), "y": Column(filled(8, torch.float32, 2))})
    return [Case(columns, 8, torch.tensor([5.0, 1, 3, NAN, 3, 3, 0, 2]))]


FAULTS = {
    "another row": ("take_rows", lambda batch, rows, n: TAKE(batch, (rows + 1) % n, n)),
    "another order": ("take_rows", lambda batch, rows, n: TAKE(batch, rows.flip(0), n)),
    "all rows": ("take_rows", lambda batch, rows, n: batch),
    "one leaf is left": ("take_rows", lambda batch, rows, n: {**TAKE(batch, rows, n), "y": batch["y"][: len(rows)]}),
    "in place": ("take_rows", lambda batch, rows, n: (TAKE(batch, rows, n), batch["x"].zero_())[0]),
    "NaN is the largest": ("select_finite", lambda s, scores, k, policy: s(losses=scores["losses"].nan_to_num(9), k=k)),
    "NaN is the least": ("select_finite", lambda s, scores, k, policy: s(losses=scores["losses"].nan_to_num(-9), k=k)),
}


@pytest.mark.parametrize("policy", ["drop", "train"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_property_catches(fault: str, policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_run(simple(), "TopLoss", 0.5, policy)
    name, function = FAULTS[fault]
    monkeypatch.setattr(selection_session, name, function)
    harmless = (fault, policy) in (("NaN is the largest", "train"), ("NaN is the least", "drop"))
    if harmless:
        check_run(simple(), "TopLoss", 0.5, policy)
        return
    with pytest.raises(AssertionError):
        check_run(simple(), "TopLoss", 0.5, policy)
