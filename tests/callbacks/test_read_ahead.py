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

from litselect.callbacks import Budget, ExampleSelection, SelectiveBackprop, id_tap, tapped_sampler
from litselect.callbacks.doubts import Doubts
from litselect.callbacks.early_choice import EarlyChoice
from litselect.callbacks.foreseeable import foreseeable
from litselect.callbacks.tapped_sampler import TappedIterator, load_all
from litselect.selectors import (
    KeepUnlearned,
    LossPercentile,
    NoiseGuard,
    RandomSubset,
    RankSampling,
    Scheduled,
    Selection,
    Selector,
    ShuffledScores,
    TopLoss,
)
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


def places_decided(solo: Any, monkeypatch: pytest.MonkeyPatch, callback: Any = None, **settings: Any) -> list[Any]:
    """The places that are decided on before each batch of a second epoch."""
    selects, found, new = EarlyChoice._selects, [], []

    def watched(self: Any, place: int, *given: Any) -> Any:
        new.append(place)
        return selects(self, place, *given)

    class Watching:
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch:
                found.append(new.copy())
            new.clear()

    monkeypatch.setattr(EarlyChoice, "_selects", watched)
    callback = callback or SelectiveBackprop(keep=0.5, scoring="ledger")
    data = DataLoader(Drawing(), **({"batch_size": BATCH, "shuffle": True} | settings))
    solo.fit(solo.make(Classifier), callback, solo.callback(Watching), data=data, max_epochs=2)
    return found


ONE_BY_ONE = [[place] for place in range(15)]


def test_many_are_decided_on_in_a_row(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tapped_sampler, "_AHEAD", 5)
    found = places_decided(solo, monkeypatch)  # 15 batches
    assert [len(new) for new in found] == [5, 0, 0, 0, 0, 5, 0, 0, 0, 0, 4, 0, 0, 0, 1]
    assert [place for new in found for place in new] == list(range(15))


def test_a_sampler_of_its_own_is_not_read_ahead(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places_decided(solo, monkeypatch, shuffle=False, sampler=Wandering(ROWS)) == ONE_BY_ONE


class LastRows(LossPercentile):
    """Someone's own, of which nobody knows what it leaves behind."""

    def select(self, k: int, *, percentiles: Any) -> Selection:
        return Selection(torch.arange(len(percentiles))[-k:])


REMEMBERING: dict[str, Any] = {
    "counts its calls": lambda: RankSampling(0.5),
    "keeps a history": lambda: NoiseGuard(LossPercentile(0.5), "auto"),
    "someone's own": lambda: LastRows(0.5),
    "a function of someone's own": lambda: Scheduled(LossPercentile(0.5), lambda progress: 0.5),
    "a stream that others may draw from": lambda: LossPercentile(0.5, generator=torch.Generator()),
    "the same within another": lambda: ShuffledScores(LossPercentile(0.5, generator=torch.Generator())),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_nor_is_it_for_a_selector_that_leaves_something_behind(
    solo: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    callback = ExampleSelection(REMEMBERING[name](), scoring="ledger")
    assert places_decided(solo, monkeypatch, callback) == ONE_BY_ONE


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
    assert places_decided(solo, monkeypatch) == ONE_BY_ONE


SELECTIONS: dict[str, Any] = {
    "percentiles": lambda: SelectiveBackprop(keep=0.5, scoring="ledger", warmup=0),
    "stale": lambda: SelectiveBackprop(keep=0.5, rescore_every=2, warmup=0),  # half of its epochs draw batch by batch
    "unlearned": lambda: ExampleSelection(KeepUnlearned(1.0), refill=True),
    "rank sampling": lambda: ExampleSelection(RankSampling(0.5, steps=60), warmup=0),  # which counts calls
    "noise guard": lambda: ExampleSelection(NoiseGuard(LossPercentile(0.5), "auto"), scoring="ledger"),
    "phase": lambda: ExampleSelection(RandomSubset(0.5), skip_loading=True, ledger=True, start=0.2, end=0.7),
}


class Leaving(Classifier):
    """Leaves every epoch after five batches."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 5 else None


def chosen(solo: Any, monkeypatch: pytest.MonkeyPatch, name: str, ahead: int, net: type, **settings: Any) -> Any:
    monkeypatch.setattr(tapped_sampler, "_AHEAD", ahead)
    made, callback = solo.make(net), SELECTIONS[name]()
    data = DataLoader(Drawing(), batch_size=BATCH, shuffle=True)
    solo.fit(made, callback, data=data, max_epochs=5, **settings)
    selector = callback.selector.state_dict()
    selector.pop("generator", None)  # which begins anew with every batch
    return made.steps, made.state_dict(), callback.ledger.state_dict(), selector


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("net", [Classifier, Leaving])
@pytest.mark.parametrize("settings", [{}, {"limit_train_batches": 8, "val_check_interval": 4}])
def test_the_same_rows_are_chosen(
    solo: Any, monkeypatch: pytest.MonkeyPatch, name: str, net: type, settings: dict[str, Any]
) -> None:
    one = chosen(solo, monkeypatch, name, 1, net, **settings)
    assert differences(one, chosen(solo, monkeypatch, name, 32, net, **settings)) == []


@pytest.mark.parametrize("name", ["rank sampling", "noise guard"])
def test_others_would_be_if_selectors_that_count_were_asked_ahead(
    solo: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(Selector, "foreseeable", property(lambda _: True))
    monkeypatch.setattr(NoiseGuard, "foreseeable", property(lambda _: True))
    one = chosen(solo, monkeypatch, name, 1, Leaving)
    assert differences(one, chosen(solo, monkeypatch, name, 32, Leaving))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_others_say_when_training_starts_is_heard(
    solo: Any, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """A budget foretells the length of the training then; workers are sent for batches before."""
    found = []
    for ahead in (1, 32):
        monkeypatch.setattr(tapped_sampler, "_AHEAD", ahead)
        net = solo.make(Classifier)
        callback = ExampleSelection(RandomSubset(0.5), skip_loading=True, end=0.2)
        data = DataLoader(Drawing(), BATCH, num_workers=workers)
        solo.fit(net, callback, Budget(candidates=180), data=data, max_epochs=-1)
        found.append([len(ids) for ids in net.steps])
    assert found[0] == found[1]
    assert found[0][:12] == [2] * 10 + [4] * 2


def test_an_error_comes_when_its_batch_does(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    select = TopLoss.select

    def failing(self: Any, k: int, **scores: Any) -> Selection:
        if self._place[1:] == (1, 3):
            raise ArithmeticError
        return select(self, k, **scores)

    monkeypatch.setattr(TopLoss, "select", failing)
    net, data = solo.make(Classifier), DataLoader(Drawing(), BATCH)
    with pytest.raises(ArithmeticError):
        solo.fit(net, ExampleSelection(TopLoss(0.5), scoring="ledger"), data=data, max_epochs=2)
    assert len(net.steps) == 15 + 3


class Breaking:
    """Breaks what is known of an example of the fourth batch."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def on_train_epoch_end(self, *_: Any) -> None:
        self.memory.ledger.loss[3 * BATCH + 1] = torch.nan


def test_so_does_that_of_a_loss_which_is_no_number(solo: Any) -> None:
    net, data = solo.make(Classifier), DataLoader(Drawing(), BATCH)
    callback = ExampleSelection(KeepUnlearned(), warmup=1)
    with pytest.raises(ValueError, match="can't rank losses"):
        solo.fit(net, callback, solo.callback(Breaking, callback), data=data, max_epochs=2)
    assert len(net.steps) == 15 + 3


class Turning(Selector):
    """Keeps more and more, and says so."""

    memoryless = follows_progress = True

    def count(self, n: int) -> int:
        return 1 + (self.progress > 0.7)

    def select(self, k: int, *, losses: Any) -> Selection:
        return Selection.of(losses.topk(k).indices)

    def select_block(self, k: int, places: Any, *, losses: Any) -> list[Selection]:
        return [self.select(k, losses=own) for own in losses]


def test_progress_is_that_of_each_batch(solo: Any) -> None:
    net, callback = solo.make(Classifier), ExampleSelection(Turning(), scoring="ledger")
    solo.fit(net, callback, data=DataLoader(Drawing(), BATCH), max_epochs=2)
    assert [len(ids) for ids in net.steps[15:]] == [1] * 7 + [2] * 8  # .7 of 30 batches are 21, of the first 15 whole


class Fading(LossPercentile):
    """As someone would have it who knows nothing of blocks."""

    follows_progress = True

    def count(self, n: int) -> int:
        return 1 + (self.progress > 0.7)


def test_it_is_in_a_class_that_extends_one_with_blocks(solo: Any) -> None:
    net, callback = solo.make(Classifier), ExampleSelection(Fading(0.5), scoring="ledger")
    solo.fit(net, callback, data=DataLoader(Drawing(), BATCH), max_epochs=2)
    assert [len(ids) for ids in net.steps[15:]] == [1] * 7 + [2] * 8


def test_lists_before_one_that_can_not_be_read_are_sent_for() -> None:
    tapped = iterator([[0], [1], ["2"], [3]], length=9)
    assert [next(tapped), next(tapped)] == [[0], [1]]
    with pytest.raises(ValueError, match=r"it sent \['2'\]"):
        next(tapped)


def blocks(solo: Any, monkeypatch: pytest.MonkeyPatch, callback: Any, **settings: Any) -> list[int]:
    """How many batches are chosen from at once, each time, in the second epoch."""
    block, found = EarlyChoice._block, []

    def watched(self: Any, *given: Any) -> Any:
        chosen = block(self, *given)
        if self._trainer.current_epoch:
            found.append(len(chosen))
        return chosen

    monkeypatch.setattr(EarlyChoice, "_block", watched)
    data = DataLoader(Drawing(), **({"batch_size": BATCH, "shuffle": True} | settings))
    solo.fit(solo.make(Classifier), callback, data=data, max_epochs=2)
    return found


def test_they_are_chosen_from_at_once(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks(solo, monkeypatch, SelectiveBackprop(keep=0.5, scoring="ledger")) == [14]


@pytest.mark.parametrize(
    "callback",
    [
        lambda: SelectiveBackprop(keep=0.5, scoring="ledger", nonfinite="drop"),
        lambda: ExampleSelection(LossPercentile(0.5, fixed_size=False), scoring="ledger"),
        lambda: ExampleSelection(TopLoss(0.5), scoring="ledger"),
    ],
)
def test_or_one_by_one_where_that_would_be_another_choice(
    solo: Any, monkeypatch: pytest.MonkeyPatch, callback: Any
) -> None:
    assert sum(blocks(solo, monkeypatch, callback())) == 0


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
    monkeypatch.setattr(id_tap, "foreseeable", lambda _: True)
    read = TappedIterator._read

    def all_of_it(self: Any) -> None:
        self._length += 1
        read(self)
        self._length -= 1

    monkeypatch.setattr(TappedIterator, "_read", all_of_it)
    whole = SelectiveBackprop(keep=1.0, scoring="ledger", warmup=0)
    assert differences(trained(solo, **CASES[case]()), trained(solo, whole, **CASES[case]()))


def iterator(sent: list[list[Any]], length: int) -> TappedIterator:
    return TappedIterator(iter(sent), length, load_all, lambda _: None, Doubts(), lambda: True)


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
