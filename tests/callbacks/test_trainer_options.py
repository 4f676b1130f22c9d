"""Options of the Trainer, several fits, compiled modules, loaders of every kind."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.callbacks.loop_patch import LoopPatch
from litselect.scoring import CaptureError
from litselect.selectors import TopLoss
from tests.callbacks.kit import Classifier, loader, rows
from tests.callbacks.test_patching import traces
from tests.callbacks.twins import SELECT_ALL, Net, assert_identical, halved, observe, unlike

FULL = [4, 4, 4, 4, 3]  # rows of half of each batch


def sizes(seen: Any) -> list[int]:
    return [len(ids) for ids in seen["trained"]]


def with_(**settings: Any) -> Any:
    return lambda kit: dict(settings)


# ---------------------------------------------------------------------- how much of the data

OPTIONS = {
    "three batches": ({"limit_train_batches": 3, "num_sanity_val_steps": 0}, [4, 4, 4] * 2),
    "a part of them": ({"limit_train_batches": 0.4}, [4, 4] * 2),
    "overfit": ({"overfit_batches": 2}, [4, 4] * 2),
    "fast_dev_run": ({"fast_dev_run": 2}, [4, 4]),
    "validation within epochs": ({"val_check_interval": 2}, FULL * 2),
    "validation across epochs": ({"val_check_interval": 3, "check_val_every_n_epoch": None}, FULL * 2),
    "steps": ({"max_steps": 7, "max_epochs": -1}, [*FULL, 4, 4]),
    "steps of two batches": ({"max_steps": 4, "max_epochs": -1, "accumulate_grad_batches": 2}, [*FULL, 4, 4]),
    "profiled": ({"profiler": "simple"}, FULL * 2),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_identity(solo: Any, name: str) -> None:
    options, expected = OPTIONS[name]
    assert_identical(solo, Net, settings=with_(**options))
    assert sizes(halved(solo, Net, settings=with_(**options))) == expected


def test_a_bare_trainer(solo: Any) -> None:
    """``barebones=True`` forbids logging and much else."""
    weights = []
    for callbacks in ([], [SELECT_ALL["scored"]()], [ExampleSelection(TopLoss(keep=0.5))]):
        net = solo.make(Classifier)
        net.log = lambda *_, **__: None
        trainer = solo.pl.Trainer(accelerator="cpu", max_epochs=2, barebones=True, callbacks=callbacks)
        trainer.fit(net, loader())
        weights.append(net.net.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert [len(ids) for ids in net.steps] == [4] * 8


def test_max_time(solo: Any) -> None:
    class Slow(Net):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.global_step == 3:
                self.trainer.should_stop = True  # what the timer does once time is up

    assert_identical(solo, Slow, settings=with_(max_time="00:01:00:00"))
    seen = observe(solo, Net, ExampleSelection(TopLoss(keep=0.5)), settings=with_(max_time={"seconds": 0}))
    assert len(seen["trained"]) <= 1
    assert traces(seen["trainer"], seen["net"]) == []


class Declines(Net):
    """Has enough of every epoch after two batches."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 2 else None


def test_a_hook_that_ends_the_epoch(solo: Any) -> None:
    assert_declined(solo)


def assert_declined(solo: Any) -> None:
    plain = observe(solo, Declines)
    assert [len(ids) for ids in plain["trained"]] == [8, 8] * 2
    for make in SELECT_ALL.values():
        assert unlike(plain, observe(solo, Declines, make())) == []
    seen = halved(solo, Declines)
    assert sizes(seen) == [4, 4] * 2
    counters = seen["callback"].counters
    assert (counters.seen, counters.scored, counters.trained) == (32, 32, 16)  # the declined ones cost nothing
    callback = ExampleSelection(TopLoss(keep=0.5), refill=True)
    seen = observe(solo, Declines, callback)
    assert sizes(seen) == [8, 8]
    assert len(callback.queue) == 0  # and no row of theirs waits
    passes = {i for ids in seen["net"].passes for i in ids}
    assert {i for ids in seen["trained"] for i in ids} <= passes


def test_declined_batches_would_be_scored_if_selection_came_earlier(solo: Any, monkeypatch: Any) -> None:
    run_on_arrival = LoopPatch.__init__

    def early(self: Any, trainer: Any, choose: Any, *rest: Any, **settings: Any) -> None:
        decided = []
        run_on_arrival(self, trainer, lambda *_: decided.pop(), *rest, **settings)
        hook = trainer.strategy.on_train_batch_start

        def on_train_batch_start(batch: Any, batch_idx: int) -> Any:
            result = hook(batch, batch_idx)
            decided.append(choose(batch, batch_idx))
            return result

        self._replace(trainer.strategy, "on_train_batch_start", on_train_batch_start)

    monkeypatch.setattr(LoopPatch, "__init__", early)
    with pytest.raises(AssertionError):
        assert_declined(solo)


# ---------------------------------------------------------------------- more than one fit


class Coupled(Classifier):
    """Compares its examples with each other: no loss of it belongs to one example."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        hidden = self.net(batch[0])
        return F.cross_entropy((hidden - hidden.mean(0)) / hidden.std(0), batch[1])


@pytest.mark.parametrize("same_trainer", [True, False])
def test_a_new_module_is_checked_anew(kit: Any, same_trainer: bool) -> None:
    callback = ExampleSelection(TopLoss(keep=0.5))
    trainer = kit.trainer(callback, max_epochs=1)
    first = kit.make(Classifier)
    trainer.fit(first, loader())
    assert callback.verified
    assert [len(ids) for ids in first.steps] == [4] * 4
    if same_trainer:
        trainer.fit_loop.max_epochs = 2
    else:
        trainer = kit.trainer(callback, max_epochs=1)
    other = kit.make(Coupled)
    with pytest.raises(CaptureError, match="replacing some rows of the batch changed"):
        trainer.fit(other, loader())
    assert traces(trainer, other) == traces(trainer, first) == []
    third = kit.make(Classifier)
    kit.fit(third, callback)
    assert [len(ids) for ids in third.steps] == [4] * 4


def test_a_new_module_would_not_be_checked_if_the_first_one_counted(solo: Any, monkeypatch: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=0.5))
    solo.fit(solo.make(Classifier), callback)
    setup = ExampleSelection.setup

    def keeps(self: Any, *args: Any, **kwargs: Any) -> None:
        setup(self, *args, **kwargs)
        self.verified = True

    monkeypatch.setattr(ExampleSelection, "setup", keeps)
    solo.fit(solo.make(Coupled), callback)  # wrong, silently


def test_several_fits_are_the_fits_that_they_would_be_alone(solo: Any) -> None:
    """Identity over two calls of fit on one Trainer, with validation and prediction between them."""

    def twice(*ours: Any) -> Any:
        torch.manual_seed(0)
        net = solo.make(Net)
        trainer = solo.trainer(*ours, max_epochs=1)
        trainer.fit(net, loader(38, 8, shuffle=True), loader(8))
        trainer.validate(net, loader(8), verbose=False)
        trainer.fit_loop.max_epochs = 3
        trainer.fit(net, loader(38, 8, shuffle=True), loader(8))
        assert traces(trainer, net) == []
        return {"weights": net.state_dict(), "steps": list(net.steps), "optimizer": trainer.optimizers[0].state_dict()}

    plain = twice()
    for make in SELECT_ALL.values():
        assert unlike(plain, twice(make())) == []


# ---------------------------------------------------------------------- compiled modules


class Inner(Classifier):
    """A part of it is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.fast = torch.compile(self.net, backend="eager")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.note(batch[2])
        loss = F.cross_entropy(self.fast(batch[0]), batch[1])
        self.log("loss", loss)
        return loss


class Whole(Classifier):
    """Says nothing while it runs, so that its step can be compiled as a whole."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch[0]), batch[1])


class WholeThatSpeaks(Whole):
    """Its graph breaks at the log, and it draws."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self.net(F.dropout(batch[0], 0.1)), batch[1])
        self.log("loss", loss)
        return loss


def compiled(kit: Any, kind: type, *ours: Any) -> Any:
    torch.compiler.reset()
    net, logger = kit.make(kind), kit.logger()
    module = torch.compile(net, backend="eager") if kind is not Inner else net
    torch.manual_seed(2)
    trainer = kit.trainer(*ours, max_epochs=2, logger=[logger])
    trainer.fit(module, loader())
    assert [trace for trace in traces(trainer, net) if not trace.startswith("module.")] == []
    logged = [{k: v for k, v in row.items() if not k.startswith("select/")} for _, row in logger.rows]
    seen = {"weights": dict(net.state_dict()), "rows": logged, "random": torch.get_rng_state()}
    return {**seen, "attributes": sorted(vars(net))}


@pytest.mark.parametrize("kind", [Inner, Whole, pytest.param(WholeThatSpeaks, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look, in dynamo
def test_compiled_modules(solo: Any, kind: type) -> None:
    plain = compiled(solo, kind)
    for make in SELECT_ALL.values():
        assert unlike(plain, compiled(solo, kind, make())) == []
    callback = ExampleSelection(TopLoss(keep=0.5))
    compiled(solo, kind, callback)
    assert (callback.counters.seen, callback.counters.scored, callback.counters.trained) == (64, 64, 32)


@pytest.mark.parametrize("kind", [Inner, Whole])
def test_compiled_modules_train_the_rows_that_the_plain_one_does(solo: Any, kind: type) -> None:
    selected = compiled(solo, kind, ExampleSelection(TopLoss(keep=0.5)))["weights"]
    net = solo.make(Classifier)
    solo.fit(net, ExampleSelection(TopLoss(keep=0.5)), max_epochs=2)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(selected[name], value)


# ---------------------------------------------------------------------- loaders


class Reloads(Net):
    """Another loader every epoch, with larger batches."""

    def train_dataloader(self) -> Any:
        return loader(32, 8 * (1 + self.current_epoch), shuffle=True)

    def val_dataloader(self) -> Any:
        return loader(8)


def test_loaders_that_change(solo: Any) -> None:
    def fit(*ours: Any) -> Any:
        torch.manual_seed(0)
        net = solo.make(Reloads)
        trainer = solo.trainer(*ours, max_epochs=2, reload_dataloaders_every_n_epochs=1)
        trainer.fit(net)
        return {"weights": net.state_dict(), "trained": list(net.steps)}

    plain = fit()
    for make in SELECT_ALL.values():
        assert unlike(plain, fit(make())) == []
    assert sizes(fit(ExampleSelection(TopLoss(keep=0.5)))) == [4] * 4 + [8] * 2
    assert sizes(fit(ExampleSelection(TopLoss(keep=0.5), refill=True))) == [8, 8, 16]


class Pairs(Net):
    """Trains on the batches of two loaders at once."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        one, other = batch.values() if isinstance(batch, dict) else batch
        assert torch.equal(one[2], other[2])
        return self.loss(one) + 0.5 * F.cross_entropy(self.net(other[0]), other[1])


@pytest.mark.parametrize("named", [True, False])
def test_combined_loaders(solo: Any, named: bool) -> None:
    def data() -> Any:
        parts = [loader(40, 8), loader(40, 8)]
        return dict(zip("ab", parts, strict=True)) if named else parts

    assert_identical(solo, Pairs, data=data)
    assert sizes(halved(solo, Pairs, data=data)) == [4] * 10


@pytest.mark.parametrize("small", [4, 3, 2])
def test_combined_loaders_of_unequal_batches_are_refused(solo: Any, small: int) -> None:
    """The three tensors of each are no three examples."""
    for data in ([loader(40, 8), loader(40, small)], {"a": loader(40, small), "b": loader(40, 8)}):
        with pytest.raises(
            ValueError, match=rf"entries of (8, {small}|{small}, 8) rows were received: .*Tensor\(8, 5\)"
        ):
            observe(solo, Pairs, ExampleSelection(TopLoss(keep=0.5)), data=lambda data=data: data)


class Stream(IterableDataset):
    """Without a length; endless if no number is given."""

    def __init__(self, n: int | None = None) -> None:
        self.n = n

    def __iter__(self) -> Any:
        x, y, ids = rows(1000 if self.n is None else self.n)
        while True:
            yield from zip(x, y, ids, strict=True)
            if self.n is not None:
                return


@pytest.mark.parametrize("workers", [0, 1])
def test_streams(solo: Any, workers: int) -> None:
    how = {
        "data": lambda: DataLoader(Stream(38), batch_size=8, num_workers=workers),
        "settings": with_(val_check_interval=1.0),
    }
    assert_identical(solo, Net, **how)
    assert sizes(halved(solo, Net, **how)) == FULL * 2


def test_endless_streams(solo: Any) -> None:
    how = {
        "data": lambda: DataLoader(Stream(), batch_size=8),
        "settings": with_(max_steps=6, max_epochs=-1, limit_val_batches=0, num_sanity_val_steps=0),
    }
    assert_identical(solo, Net, **how)
    assert sizes(halved(solo, Net, **how)) == [4] * 6
    callback = SelectiveBackprop(keep=0.5, warmup="auto")  # a tenth of the steps that are left to make
    assert sizes(observe(solo, Net, callback, **how)) == [8] + [4] * 5
    refilled = observe(solo, Net, ExampleSelection(TopLoss(keep=0.5), refill=True), **how)
    assert sizes(refilled) == [8] * 6
    assert refilled["progress"][2] == 11  # index of the last of twelve batches


def test_datamodules(solo: Any) -> None:
    class Data(solo.pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader(38, 8, shuffle=True)

        def val_dataloader(self) -> Any:
            return loader(8)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            x, y, ids = batch
            return x + 0.1 * torch.randn_like(x), y, ids  # before it is scored

    def fit(*ours: Any) -> Any:
        net = solo.make(Net)
        torch.manual_seed(0)
        solo.trainer(*ours, max_epochs=2).fit(net, datamodule=Data())
        return {"weights": net.state_dict(), "trained": list(net.steps)}

    plain = fit()
    for make in SELECT_ALL.values():
        assert unlike(plain, fit(make())) == []
    assert sizes(fit(ExampleSelection(TopLoss(keep=0.5)))) == FULL * 2
