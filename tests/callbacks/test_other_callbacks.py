"""Other callbacks beside ours, in both orders, and tuners."""

from typing import Any

import pytest
import torch

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.selectors import KeepAll, RandomSubset, TopLoss
from tests.callbacks.kit import differences, loader, weights
from tests.callbacks.test_patching import names, traces
from tests.callbacks.twins import SELECT_ALL, Net, assert_identical, halved, observe, unlike

EPOCHS = 4


def beside(make: Any, **settings: Any) -> Any:
    """Settings with a callback of Lightning's."""
    return lambda kit: {"callbacks": [make(kit.pl.callbacks)], **settings}


def both_orders(kit: Any, settings: Any, module: type = Net) -> list[Any]:
    """With all rows kept, training beside another callback is what it is without us, whoever comes first."""
    plain = observe(kit, module, settings=settings)
    assert plain["net"].passes == []
    for (name, make), last in zip(SELECT_ALL.items(), (True, False), strict=True):
        assert unlike(plain, observe(kit, module, make(), settings=settings, last=last)) == [], name
    chosen = [halved(kit, module, settings=settings, last=last) for last in (True, False)]
    assert unlike(*chosen) == []  # the order does not matter to selection either
    return [plain, chosen[0]]


# ---------------------------------------------------------------------- averages of the weights


def test_stochastic_weight_averaging(solo: Any) -> None:
    settings = beside(
        lambda c: c.StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=1), max_epochs=EPOCHS
    )
    plain, chosen = both_orders(solo, settings)
    assert differences(plain["weights"], observe(solo, Net, settings=lambda _: {"max_epochs": EPOCHS})["weights"])
    trained = [len(ids) for ids in chosen["trained"]]
    assert trained[:-5] == [4, 4, 4, 4, 3] * EPOCHS
    assert trained[-5:] == [8, 8, 8, 8, 6]  # the last pass, without backward, gathers batch statistics of all rows


@pytest.mark.parametrize("name", ["WeightAveraging", "EMAWeightAveraging"])
def test_weight_averaging(solo: Any, name: str) -> None:
    if not hasattr(solo.pl.callbacks, name):
        pytest.skip("Lightning 2.6")
    plain, chosen = both_orders(solo, beside(lambda c: getattr(c, name)(**({"decay": 0.9} if name[0] == "E" else {}))))
    assert [len(ids) for ids in chosen["trained"]] == [4, 4, 4, 4, 3] * 2
    assert differences(plain["weights"], observe(solo, Net)["weights"])


def test_weight_averaging_counts_real_steps_while_refilling(solo: Any) -> None:
    if not hasattr(solo.pl.callbacks, "EMAWeightAveraging"):
        pytest.skip("Lightning 2.6")
    average = solo.pl.callbacks.EMAWeightAveraging(decay=0.9)
    trainer = solo.trainer(ExampleSelection(TopLoss(keep=0.5), refill=True), average, max_epochs=2)
    net = solo.make(Net)
    trainer.fit(net, loader(), loader(8))
    assert trainer.global_step == len(net.steps) == 4
    assert int(average._average_model.n_averaged) == 4


# ---------------------------------------------------------------------- stopping, watching


class Worsens(Net):
    """Its validation loss falls, then rises."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", abs(float(self.current_epoch) - 2))


@pytest.mark.parametrize("ours_last", [True, False])
def test_early_stopping(solo: Any, ours_last: bool) -> None:
    settings = beside(lambda c: c.EarlyStopping("val_loss", patience=2), max_epochs=20)
    seen = halved(solo, Worsens, settings=settings, last=ours_last)
    assert seen["progress"] == [25, 5, 24]
    assert (
        unlike(
            observe(solo, Worsens, settings=settings), observe(solo, Worsens, SELECT_ALL["scored"](), settings=settings)
        )
        == []
    )


def test_early_stopping_watches_the_loss_of_the_trained_rows(solo: Any) -> None:
    seen = halved(solo, Net, settings=beside(lambda c: c.EarlyStopping("loss_epoch", patience=9)))
    assert seen["callback_metrics"]["loss_epoch"] > observe(solo, Net)["callback_metrics"]["loss_epoch"]


def test_early_stopping_in_the_middle_of_an_epoch(solo: Any) -> None:
    class Stops(Net):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.trainer.should_stop = batch_idx == 2

    assert_identical(solo, Stops)
    seen = halved(solo, Stops)
    assert seen["progress"][0] == 3


class Warming(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_learning_rate_monitor(solo: Any) -> None:
    plain, chosen = both_orders(solo, beside(lambda c: c.LearningRateMonitor()), Warming)
    rates = [[row["lr-SGD"] for _, row in seen["rows"] if "lr-SGD" in row] for seen in (plain, chosen)]
    assert rates[0] == rates[1] != []


class Unfreezes(Net):
    """Half of it, called the backbone, waits."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.net[0]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def test_finetuning(solo: Any) -> None:
    both_orders(solo, beside(lambda c: c.BackboneFinetuning(1, verbose=False), max_epochs=3), Unfreezes)


def test_accumulation_that_changes(solo: Any) -> None:
    settings = beside(lambda c: c.GradientAccumulationScheduler({0: 1, 1: 3}))
    _, chosen = both_orders(solo, settings)
    assert chosen["progress"][0] == 5 + 2
    refilling = ExampleSelection(TopLoss(keep=0.5), refill=True)
    with pytest.raises(ValueError, match=r"refill=True\).*can't be combined with accumulate_grad_batches=3"):
        observe(solo, Net, refilling, settings=settings)
    assert refilling.counters.seen == 0  # at once, not when it begins

    class Later(Net):
        def on_train_epoch_start(self) -> None:
            self.trainer.accumulate_grad_batches = 1 + self.current_epoch

    with pytest.raises(ValueError, match=r"refill=True\).*can't be combined with accumulate_grad_batches=2"):
        observe(solo, Later, refilling)
    assert refilling.counters.trained == 16


@pytest.mark.parametrize(("bar", "refill"), [("TQDMProgressBar", False), ("RichProgressBar", True)])
def test_progress_bars(solo: Any, bar: str, refill: bool, capsys: Any) -> None:
    pytest.importorskip("rich")
    callbacks = solo.pl.callbacks
    ours = SelectiveBackprop(keep=0.25, warmup=0, refill=refill, prog_bar=True)
    trainer = solo.pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        callbacks=[getattr(callbacks, bar)(refresh_rate=1), callbacks.ModelSummary(max_depth=2), ours],
    )
    net = solo.make(Net)
    trainer.fit(net, loader(40, 8), loader(8))
    shown = capsys.readouterr()
    assert "kept" in shown.out + shown.err
    assert "loss" in shown.out + shown.err
    assert len(net.steps) == trainer.global_step > 0


# ---------------------------------------------------------------------- our own


def test_two_of_one_class_are_refused(kit: Any) -> None:
    """By Lightning, as both would keep their state under one name: the docstring of ours says why."""
    pair = [ExampleSelection(TopLoss(keep=0.5)), ExampleSelection(RandomSubset(keep=0.5))]
    with pytest.raises(RuntimeError, match=r"more than one stateful callback of type `ExampleSelection`.*consult"):
        kit.trainer(*pair)
    assert "One of a kind" in (ExampleSelection.__doc__ or "")


@pytest.mark.parametrize("turned", [False, True])
def test_two_classes_are_refused(kit: Any, turned: bool) -> None:
    pair = [ExampleSelection(KeepAll()), SelectiveBackprop(keep=0.5)]
    net = kit.make(Net)
    with pytest.raises(ValueError, match=r"one callback that selects examples, but got .*Keep one"):
        kit.trainer(*(pair[::-1] if turned else pair)).fit(net, loader(), loader(8))
    assert len(net.steps) == len(net.passes) == 0


def test_one_from_the_module_beside_one_in_the_trainer(solo: Any) -> None:
    class Brings(Net):
        def configure_callbacks(self) -> Any:
            return [self.brought]

    net = solo.make(Brings)
    net.brought = ExampleSelection(KeepAll())
    with pytest.raises(ValueError, match=r"got SelectiveBackprop, ExampleSelection.*Keep one"):
        solo.trainer(SelectiveBackprop(keep=0.5)).fit(net, loader(), loader(8))
    net.brought = SelectiveBackprop(keep=0.5, warmup=0)  # a subclass takes the place of the Trainer's, says Lightning
    solo.trainer(ExampleSelection(KeepAll())).fit(net, loader(), loader(8))
    assert [len(ids) for ids in net.steps] == [4] * 4


# ---------------------------------------------------------------------- tuners


class Tunable(Net):
    """Makes its own loader, has a learning rate and a batch size to tune."""

    def __init__(self) -> None:
        super().__init__()
        self.lr, self.batch_size = 0.02, 5

    def train_dataloader(self) -> Any:
        return loader(20, self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return loader(8)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def tuned(kit: Any, folder: Any, kind: str, *ours: Any) -> Any:
    """Tune, then train. Lightning calls its finders first, whatever their place."""
    finder = {
        "lr": lambda: kit.pl.callbacks.LearningRateFinder(
            num_training_steps=16, min_lr=1e-3, early_stop_threshold=None
        ),
        "batch size": lambda: kit.pl.callbacks.BatchSizeFinder(steps_per_trial=1, init_val=2, max_trials=2),
    }[kind]()
    net = kit.make(Tunable)
    torch.manual_seed(5)
    epochs = {"lr": 5, "batch size": 2}[kind]
    trainer = kit.trainer(*ours, finder, max_epochs=epochs, logger=[kit.logger()], default_root_dir=folder)
    trainer.fit(net)
    assert traces(trainer, net) == []
    seen = {"weights": weights(net), "lr": net.lr, "batch size": net.batch_size, "steps": list(net.steps)}
    return {**seen, "optimizer": trainer.optimizers[0].state_dict(), "net": net, "names": names(trainer, net)}


@pytest.mark.parametrize("kind", ["lr", "batch size"])
def test_finders_tune_on_all_rows(solo: Any, kind: str, tmp_path: Any) -> None:
    plain = tuned(solo, tmp_path, kind)
    seen = tuned(solo, tmp_path, kind, SELECT_ALL["scored"]())
    assert differences(*({k: v for k, v in found.items() if k != "net"} for found in (plain, seen))) == []
    assert plain[kind] != {"lr": 0.02, "batch size": 5}[kind]  # it tuned
    callback = ExampleSelection(TopLoss(keep=0.5))
    seen = tuned(solo, tmp_path, kind, callback)
    assert (seen["lr"], seen["batch size"]) == (plain["lr"], plain["batch size"])
    if not hasattr(solo.pl.callbacks, "WeightAveraging"):
        return  # before 2.6, what a trial leaves of the loops' progress depends on the version
    epochs, batches = (5, 4) if kind == "lr" else (2, 5)
    trained = [len(ids) for ids in seen["steps"]]
    assert trained[-batches * epochs :] == [2] * batches * epochs  # the training proper
    assert set(trained[: -batches * epochs]) == ({5} if kind == "lr" else {4, 5})  # the trials
    assert (callback.counters.seen, callback.counters.trained) == (20 * epochs, 2 * batches * epochs)


@pytest.mark.parametrize("kind", ["lr", "batch size"])
def test_the_tuner(solo: Any, kind: str, tmp_path: Any) -> None:
    callback, net = ExampleSelection(TopLoss(keep=0.5)), solo.make(Tunable)
    trainer = solo.trainer(callback, max_epochs=5, default_root_dir=tmp_path)
    tuner = solo.pl.tuner.Tuner(trainer)
    if kind == "batch size" and not hasattr(solo.pl.callbacks, "WeightAveraging"):
        pytest.skip("Lightning 2.6 doubles once less")
    if kind == "lr":
        assert tuner.lr_find(net, num_training=16, early_stop_threshold=None).results["lr"] != []
    else:
        assert tuner.scale_batch_size(net, steps_per_trial=1, init_val=2, max_trials=2) == 4
    assert traces(trainer, net) == []
    assert (callback.counters.seen, len(net.passes)) == (0, 0)
    net.steps.clear()
    trainer.fit(net)
    assert traces(trainer, net) == []
    assert [len(ids) for ids in net.steps] == ([2] * 4 * 5 if kind == "lr" else [2] * 5 * 5)


class Milestone:
    """A learning rate finder that runs again in the middle of training, as Lightning's documentation shows."""

    def on_fit_start(self, *_: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


def test_a_finder_in_the_middle_of_training(solo: Any, tmp_path: Any) -> None:
    """Its trials are selected from, too; then selection goes on from where it was before them."""

    class Finder(Milestone, solo.pl.callbacks.LearningRateFinder):
        pass

    finder = Finder(num_training_steps=20, update_attr=False, early_stop_threshold=None)
    callback = SelectiveBackprop(keep=0.5, warmup=0, seed=1)
    counted = []

    class Watch(solo.pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            counted.append((callback.counters.seen, callback.counters.trained))

        on_train_epoch_end = on_train_epoch_start

    net = solo.make(Tunable)
    trainer = solo.trainer(finder, callback, Watch(), max_epochs=2, default_root_dir=tmp_path)
    trainer.fit(net)
    assert counted[2] == counted[1]  # before and after the trials
    assert callback.counters.seen == 2 * 20
    assert traces(trainer, net) == []
