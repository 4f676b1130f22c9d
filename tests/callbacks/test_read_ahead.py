"""Choices before loading are made for many batches in a row, where nobody can tell."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from litselect.callbacks import SelectiveBackprop, tapped_sampler
from litselect.callbacks.doubts import Doubts
from litselect.callbacks.early_choice import EarlyChoice
from litselect.callbacks.foreseeable import foreseeable
from litselect.callbacks.tapped_sampler import TappedIterator, load_all
from litselect.selectors import RankSampling
from tests.callbacks.kit import Classifier, differences, rows

N, BATCH = 60, 4
ROWS = range(N)


class Drawing(Dataset[Any]):
    """Draws from a stream for every example that is loaded, as an augmentation does."""

    def __init__(self, stream: torch.Generator | None = None) -> None:
        self.rows, self.stream = rows(N), stream

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        x, y, ids = (column[i] for column in self.rows)
        return x + torch.randn(x.shape, generator=self.stream, dtype=x.dtype), y, ids


class Wandering(RandomSampler):
    """Draws from the global stream as it goes."""

    def __iter__(self) -> Iterator[int]:
        yield from (int(torch.randint(N, ())) for _ in range(N))


def batches(sampler: Any) -> BatchSampler:
    return BatchSampler(sampler, BATCH, drop_last=False)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (batches(RandomSampler(ROWS)), True),
        (batches(RandomSampler(ROWS, num_samples=N // 2)), True),
        (batches(SequentialSampler(ROWS)), True),
        (batches(SubsetRandomSampler(ROWS)), True),
        (batches(WeightedRandomSampler([1.0] * N, N)), True),
        (batches(DistributedSampler(Subset(Drawing(), ROWS), 2, 0)), True),
        (batches(RandomSampler(ROWS, replacement=True)), False),  # draws 32 at a time
        (batches(RandomSampler(ROWS, num_samples=2 * N)), False),  # draws again when it has been through
        (batches(Wandering(ROWS)), False),
        (type("Own", (BatchSampler,), {})(RandomSampler(ROWS), BATCH, False), False),
        ([[0, 1], [2, 3]], False),
    ],
)
def test_which_samplers_can_be_read_ahead(sampler: Any, expected: bool) -> None:
    assert foreseeable(sampler) is expected


def places_decided(solo: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[list[int]]:
    """The places that are decided on before each batch of an epoch that selects."""
    decide, found, new = EarlyChoice.__call__, [], []

    def watched(self: Any, place: int, length: int, ids: Any) -> Any:
        new.append(place)
        return decide(self, place, length, ids)

    class Watching:
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            found.append(new.copy())
            new.clear()

    monkeypatch.setattr(EarlyChoice, "__call__", watched)
    callback = SelectiveBackprop(keep=0.5, scoring="ledger", warmup=0)
    data = DataLoader(Drawing(), **settings)
    solo.fit(solo.make(Classifier), callback, solo.callback(Watching), data=data, max_epochs=1)
    return found


def test_many_are_decided_on_in_a_row(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tapped_sampler, "_AHEAD", 5)
    found = places_decided(solo, monkeypatch, batch_size=BATCH, shuffle=True)  # 15 batches
    assert [len(new) for new in found] == [5, 0, 0, 0, 0, 5, 0, 0, 0, 0, 4, 0, 0, 0, 1]
    assert [place for new in found for place in new] == list(range(15))


def test_a_sampler_of_its_own_is_not_read_ahead(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = places_decided(solo, monkeypatch, batch_size=BATCH, sampler=Wandering(ROWS))
    assert found == [[place] for place in range(15)]


class Stateful(DataLoader[Any]):
    """A loader that can be set to a place."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_a_loader_with_a_place_is_not_read_ahead(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a selector counts is saved with the place, and would be that of a later one."""
    Stateful.__module__ = "torch.utils.data"
    monkeypatch.setattr(f"{__name__}.DataLoader", Stateful)
    found = places_decided(solo, monkeypatch, batch_size=BATCH, shuffle=True)
    assert found == [[place] for place in range(15)]


SELECTORS: dict[str, Any] = {
    "percentiles": lambda: SelectiveBackprop(keep=0.5, scoring="ledger", warmup=0),
    "rank sampling": lambda: SelectiveBackprop.__mro__[1](RankSampling(0.5, steps=7), warmup=0),  # which counts calls
}


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("drop_last", [True, False])
def test_the_same_rows_are_chosen(solo: Any, monkeypatch: pytest.MonkeyPatch, name: str, drop_last: bool) -> None:
    found = []
    for ahead in (1, 4, 32):
        monkeypatch.setattr(tapped_sampler, "_AHEAD", ahead)
        net, callback = solo.make(Classifier), SELECTORS[name]()
        data = DataLoader(Drawing(), batch_size=7, shuffle=True, drop_last=drop_last)
        solo.fit(net, callback, data=data, max_epochs=4, limit_train_batches=6)
        found.append((net.steps, net.state_dict(), callback.ledger.state_dict()))
    assert differences(found[0], found[1]) == differences(found[0], found[2]) == []


def trained(solo: Any, *callbacks: Any, sampler: Any = None, stream: torch.Generator | None = None) -> Any:
    net = solo.make(Classifier)
    torch.manual_seed(5)
    data = DataLoader(Drawing(stream), 7, shuffle=sampler is None, sampler=sampler, generator=stream)
    solo.fit(net, *callbacks, data=data, max_epochs=3)
    return net.state_dict()


CASES: dict[str, Any] = {
    "as it goes": lambda: {"sampler": Wandering(ROWS)},
    # Once a RandomSampler has given its last index it draws a permutation that nobody asked for.
    "at the end": lambda: {"stream": torch.Generator().manual_seed(3)},
}


@pytest.mark.parametrize("case", CASES)
def test_samplers_that_share_a_stream_draw_when_they_did(solo: Any, case: str) -> None:
    whole = SelectiveBackprop(keep=1.0, scoring="ledger", warmup=0)
    assert differences(trained(solo, **CASES[case]()), trained(solo, whole, **CASES[case]())) == []


@pytest.mark.parametrize("case", CASES)
def test_they_would_not(solo: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above: everything is read ahead, the last list too."""
    monkeypatch.setattr(tapped_sampler, "foreseeable", lambda _: True)
    read = TappedIterator._read

    def all_of_it(self: Any) -> None:
        self._length += 1
        read(self)
        self._length -= 1

    monkeypatch.setattr(TappedIterator, "_read", all_of_it)
    whole = SelectiveBackprop(keep=1.0, scoring="ledger", warmup=0)
    assert differences(trained(solo, **CASES[case]()), trained(solo, whole, **CASES[case]()))


def iterator(sent: list[list[int]], length: int) -> TappedIterator:
    return TappedIterator(iter(sent), length, load_all, lambda _: None, Doubts(), ahead=3)


def test_a_sampler_that_ends_early_ends() -> None:
    assert list(iterator([[0], [1]], length=9)) == [[0], [1]]


def test_one_that_goes_on_longer_than_it_said_goes_on() -> None:
    assert list(iterator([[0], [1], [2], [3]], length=2)) == [[0], [1], [2], [3]]


def test_what_was_read_ahead_is_forgotten_at_another_place() -> None:
    tapped = iterator([[i] for i in range(9)], length=9)
    assert next(tapped) == [0]
    tapped._batches = iter([[i] for i in range(9)])  # of the next run through the sampler
    tapped.load_state_dict({"place": 5, "batches": None})
    assert next(tapped) == [5]
    assert list(tapped.deliveries) == [0, 5]
