"""When selection is on: warm-up, start and end."""

import re
import warnings
from typing import Any

import pytest
import torch

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.selectors import (
    InfoBatch,
    KeepUnlearned,
    LossPercentile,
    NoiseGuard,
    RandomSubset,
    Scheduled,
    TopLoss,
)
from tests.callbacks.kit import Classifier, loader, rows


def active(kit: Any, selector: Any = None, batches: int = 10, epochs: int = 2, **settings: Any) -> list[bool]:
    """For each incoming batch of 4, whether rows were selected from it."""
    trainer = {name: settings.pop(name) for name in ("max_steps", "accumulate_grad_batches") if name in settings}
    net = kit.make(Classifier)
    callback = ExampleSelection(RandomSubset(keep=0.5) if selector is None else selector, **settings)
    kit.fit(net, callback, data=loader(4 * batches, 4), max_epochs=epochs, **trainer)
    assert {len(ids) for ids in net.steps} <= {4, 2}
    return [len(ids) == 2 for ids in net.steps]


def on(first: int, last: int = 20, of: int = 20) -> list[bool]:
    """On from batch `first` to before batch `last`."""
    return [first <= i < last for i in range(of)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, on(0)),
        ({"warmup": 0}, on(0)),
        ({"warmup": 1}, on(10)),
        ({"warmup": 0.5}, on(5)),
        ({"warmup": 1.3}, on(13)),
        ({"warmup": 5}, on(20)),
        ({"warmup": "auto"}, on(2)),
        ({"warmup_steps": 3}, on(3)),
        ({"warmup_steps": 12}, on(12)),
        ({"warmup": 0.5, "warmup_steps": 3}, on(5)),
        ({"warmup": 0.5, "warmup_steps": 7}, on(7)),
        ({"start": 1}, on(10)),
        ({"start": 0.25}, on(5)),
        ({"end": 1}, on(0, 10)),
        ({"end": 0.75}, on(0, 15)),
        ({"start": 0.25, "end": 0.75}, on(5, 15)),
        ({"start": 1, "end": 2}, on(10)),
        ({"start": 0.25, "end": 1}, on(5, 10)),
        ({"start": 0.25, "warmup": 1}, on(10)),
        ({"end": 1.0}, on(0)),
        ({"end": 0.0001}, on(0, 1)),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Selection by .* never begins")
def test_the_batches_that_are_selected_from(solo: Any, settings: Any, expected: list[bool]) -> None:
    assert active(solo, **settings) == expected


def test_auto_is_an_epoch_of_a_long_training(kit: Any) -> None:
    assert active(kit, batches=2, epochs=30, warmup="auto") == on(2, 60, 60)
    assert active(kit, batches=2, epochs=5, warmup="auto") == on(1, 10, 10)


def test_fractions_of_max_steps(solo: Any) -> None:
    assert active(solo, epochs=-1, max_steps=15, start=0.2, end=0.6) == on(3, 9, 15)
    assert active(solo, epochs=-1, max_steps=5, start=0.4, accumulate_grad_batches=2) == on(4, 10, 10)


def test_rows_are_not_scored_while_it_is_off(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=0.5), start=1, end=2)
    net = solo.make(Classifier)
    solo.fit(net, callback, data=loader(32, 8), max_epochs=3)
    assert [len(ids) for ids in net.steps] == [8] * 4 + [4] * 4 + [8] * 4
    assert callback.counters.scored == 8 + 4 * 8  # the first batch of all checks the capture


class Endless(torch.utils.data.IterableDataset):
    """A stream of unknown length."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Any:
        return zip(*rows(self.n), strict=True)


def test_streams_of_unknown_length(kit: Any) -> None:
    net = kit.make(Classifier)
    data = torch.utils.data.DataLoader(Endless(30), batch_size=8)
    kit.fit(net, SelectiveBackprop(keep=0.5, warmup=1), data=data, max_epochs=2)
    assert [len(ids) for ids in net.steps] == [8, 8, 8, 6, 4, 4, 4, 3]
    net.steps.clear()
    kit.fit(net, ExampleSelection(TopLoss(keep=0.5), start=0.5), data=data, max_epochs=-1, max_steps=8)
    assert [len(ids) for ids in net.steps] == [8, 8, 8, 6, 4, 4, 4, 3]


def test_a_fraction_of_an_unknown_length_is_refused(kit: Any) -> None:
    net = kit.make(Classifier)
    data = torch.utils.data.DataLoader(Endless(30), batch_size=8)
    with pytest.raises(ValueError, match=r"start=0\.5.*length is not known.*Set max_steps or.*in epochs as integers"):
        kit.fit(net, ExampleSelection(TopLoss(keep=0.5), start=0.5), data=data, max_epochs=2)
    assert net.steps == []
    kit.fit(net, ExampleSelection(TopLoss(keep=0.5), start=1), data=data, max_epochs=2)


def test_in_a_stream_of_unknown_length_progress_goes_by_epochs(kit: Any) -> None:
    net = kit.make(Classifier)
    data = torch.utils.data.DataLoader(Endless(32), batch_size=8)
    kit.fit(net, ExampleSelection(Scheduled(RandomSubset(), keep=(1.0, 0.5))), data=data, max_epochs=2)
    assert [len(ids) for ids in net.steps] == [8] * 4 + [6] * 4


class TwoEpochs:
    """Ends a training that has no end."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch == 1


def test_a_selector_that_follows_an_unknown_progress_is_warned_of(kit: Any) -> None:
    def fit(selector: Any, max_epochs: int = -1) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ends = kit.callback(TwoEpochs)
            kit.fit(kit.make(Classifier), ExampleSelection(selector), ends, data=loader(16, 8), max_epochs=max_epochs)
        return [str(each.message) for each in caught if "progress of the training" in str(each.message)]

    (said,) = fit(NoiseGuard(TopLoss(0.5), 0.25, ramp=0.5))
    assert re.search(r"NoiseGuard\(.*as at the beginning, always. Set max_steps or max_epochs", said)
    assert fit(NoiseGuard(TopLoss(0.5), 0.25)) == []
    assert fit(NoiseGuard(TopLoss(0.5), 0.25, ramp=0.5), max_epochs=2) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": -1}, r'warmup to be a number of epochs >= 0 or "auto", but got -1'),
        ({"warmup": float("nan")}, "got nan"),
        ({"warmup": float("inf")}, "got inf"),
        ({"warmup": "often"}, "got 'often'"),
        ({"warmup_steps": -1}, "warmup_steps to be a number of batches >= 0, but got -1"),
        ({"start": 1.5}, r"`start` to be a fraction.*got 1\.5.*start=2"),
        ({"end": -0.1}, r"`end` to be a fraction.*got -0\.1"),
        ({"start": float("nan")}, "got nan"),
        ({"start": 0.5, "end": 0.5}, r"must end after it starts, but got start=0\.5 and end=0\.5"),
        ({"start": 3, "end": 2}, "must end after it starts"),
    ],
    ids=str,
)
def test_impossible_phases(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExampleSelection(TopLoss(keep=0.5), **settings)


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"max_epochs": 4}, 4),
        ({"max_epochs": 50, "max_steps": 20}, None),
        ({"max_epochs": -1, "max_steps": 20}, None),
        ({"max_epochs": 4, "max_steps": 20}, 4),
        ({"max_epochs": 50, "max_steps": 20, "accumulate_grad_batches": 5}, None),
        ({"max_epochs": 4, "max_steps": 4, "accumulate_grad_batches": 5}, 4),
    ],
)
def test_a_selector_is_told_the_epochs_that_will_be(solo: Any, settings: dict[str, Any], seen: int | None) -> None:
    """Not those that steps end before: what is planned in epochs would never come."""
    callback = ExampleSelection(RandomSubset(keep=0.5))
    solo.fit(solo.make(Classifier), callback, data=loader(20, 4), **settings)
    assert callback.selector.epochs == seen


def test_plans_in_epochs_come_though_steps_end_the_training(solo: Any) -> None:
    steps = {}
    for settings in ({"max_epochs": 5}, {"max_epochs": 100, "max_steps": 20}):
        module = solo.make(Classifier)
        solo.fit(module, ExampleSelection(InfoBatch(anneal=0.4, seed=0)), data=loader(64, 16), **settings)
        steps[settings["max_epochs"]] = [len(rows) for rows in module.steps]
    assert steps[5] == steps[100]
    assert sum(steps[5][-8:]) == 2 * 64
    assert sum(steps[5][4:12]) < 2 * 64


NEVER: Any = {
    "an epoch of remembered losses": (lambda: ExampleSelection(LossPercentile(0.5), scoring="ledger"), {}),
    "steps within that epoch": (lambda: ExampleSelection(KeepUnlearned(), refill=True), {"epochs": 9, "max_steps": 4}),
    "a late start": (lambda: ExampleSelection(TopLoss(0.5), start=10), {"epochs": 3}),
    "a long warm-up": (lambda: ExampleSelection(TopLoss(0.5), warmup=3), {"epochs": 3}),
}


@pytest.mark.parametrize("name", NEVER)
def test_selection_that_never_begins_is_warned_of(solo: Any, name: str) -> None:
    make, settings = NEVER[name]
    epochs = settings.get("epochs", 1)
    more = {"max_steps": settings["max_steps"]} if "max_steps" in settings else {}
    with pytest.warns(UserWarning, match=r"Selection by .* never begins: this training has .* epochs, .*warmup="):
        solo.fit(solo.make(Classifier), make(), data=loader(40, 8), max_epochs=epochs, **more)
    more = {name: steps * 4 for name, steps in more.items()}
    solo.fit(solo.make(Classifier), make(), data=loader(40, 8), max_epochs=12, **more)  # begins: no warning is an error


class TwoOptimizers(Classifier):
    """Each of which makes a step of every batch, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([parameter], 0.1) for parameter in self.net.parameters()]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(super().training_step(batch, batch_idx))
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize(
    "settings", [{"max_steps": 1}, {"fast_dev_run": True}, {"max_steps": 4, "max_epochs": -1}], ids=str
)
@pytest.mark.parametrize("module", [Classifier, TwoOptimizers])
def test_trainings_of_a_few_batches(solo: Any, module: Any, settings: Any) -> None:
    """Of less than one, by the steps of two optimizers."""
    net = solo.make(module)
    solo.fit(net, ExampleSelection(TopLoss(0.5)), data=loader(16, 8), **settings)
    assert {len(ids) for ids in net.steps} == {4}
    solo.fit(solo.make(module), ExampleSelection(TopLoss(0.5), start=0.5), data=loader(16, 8), fast_dev_run=True)
