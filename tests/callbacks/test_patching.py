"""Selection leaves the Trainer and the module as it found them, whichever way training ends."""

import copy
import pickle
import signal
from typing import Any

import pytest
import torch

from litselect.callbacks import ExampleSelection
from litselect.selectors import TopLoss
from tests.callbacks.kit import Classifier, Validated, differences, loader, weights


class Boom(Exception):
    """Something that went wrong in the user's code."""


class Fragile(Classifier):
    """Fails in the second batch: while it is scored, or while it is trained."""

    def __init__(self, where: str = "", error: BaseException | None = None) -> None:
        super().__init__()
        self.where, self.error = where, error or Boom(where)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if batch_idx == 1 and self.where == ("training" if torch.is_grad_enabled() else "scoring"):
            raise self.error
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.where == ("sanity check" if self.trainer.sanity_checking else "validation"):
            raise self.error

    def on_after_backward(self) -> None:
        if self.where == "after backward":
            raise self.error


class Saboteur:
    """Fails in the hooks that it is told."""

    def __init__(self, *hooks: str) -> None:
        super().__init__()
        for hook in hooks:
            setattr(self, hook, self._fail)

    def _fail(self, *_: Any, **__: Any) -> None:
        raise Boom


HOOKS = (
    "setup",
    "on_fit_start",
    "on_sanity_check_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
    "teardown",
)


def owners(trainer: Any, module: Any) -> dict[str, Any]:
    """Every object that selection could have put something into."""
    loop = trainer.fit_loop
    return {
        "trainer": trainer,
        "strategy": trainer.strategy,
        "precision": trainer.precision_plugin,
        "connector": trainer._logger_connector,
        "fit loop": loop,
        "epoch loop": loop.epoch_loop,
        "automatic": loop.epoch_loop.automatic_optimization,
        "manual": loop.epoch_loop.manual_optimization,
        "module": module,
    }


def traces(trainer: Any, module: Any) -> list[str]:
    """Attributes in which a function hides that should be a method of the class."""
    return [
        f"{name}.{attribute}"
        for name, owner in owners(trainer, module).items()
        for attribute, value in vars(owner).items()
        if callable(getattr(type(owner), attribute, None))
        or (getattr(value, "__module__", None) or "").startswith("litselect")
    ]


def names(trainer: Any, module: Any) -> dict[str, set[str]]:
    return {name: set(vars(owner)) for name, owner in owners(trainer, module).items()}


def run(kit: Any, module: Any, *callbacks: Any, error: Any = Boom) -> Any:
    trainer = kit.trainer(*callbacks, logger=kit.logger(), max_epochs=2)
    loggers = trainer.loggers
    if error is None:
        trainer.fit(module, loader(), loader(8))
    else:
        with pytest.raises(error):
            trainer.fit(module, loader(), loader(8))
    assert trainer.loggers is loggers
    return trainer


def test_what_is_patched_is_seen(solo: Any) -> None:
    """The detector works: during training it finds the patches."""

    class Looks(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.found = traces(self.trainer, self)
            return super().training_step(batch, batch_idx)

    module = solo.make(Looks)
    solo.fit(module, ExampleSelection(TopLoss(keep=0.5), refill=True))
    assert {"strategy.training_step", "strategy.on_train_batch_start", "epoch loop._should_accumulate"} <= set(
        module.found
    )
    assert not [trace for trace in module.found if trace.startswith("module.")]


@pytest.mark.parametrize("refill", [False, True])
def test_after_a_fit_all_is_as_before(kit: Any, refill: bool) -> None:
    plain = kit.make(Validated)
    expected = names(run(kit, plain, error=None), plain)
    module = kit.make(Validated)
    trainer = run(kit, module, ExampleSelection(TopLoss(keep=0.5), refill=refill), error=None)
    assert traces(trainer, module) == []
    assert names(trainer, module) == expected


@pytest.mark.parametrize("where", ["training", "scoring", "sanity check", "validation", "after backward"])
def test_after_an_error_in_the_module(kit: Any, where: str) -> None:
    module = kit.make(Fragile, where)
    trainer = run(kit, module, ExampleSelection(TopLoss(keep=0.5)))
    assert traces(trainer, module) == []
    plain = kit.make(Fragile, "training" if where == "scoring" else where)
    assert names(trainer, module) == names(run(kit, plain), plain)
    assert [part.training for part in module.modules()] == [part.training for part in plain.modules()]


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("hook", HOOKS)
def test_after_an_error_in_another_callback(solo: Any, hook: str, ours_first: bool) -> None:
    module = solo.make(Validated)
    callbacks = [ExampleSelection(TopLoss(keep=0.5)), solo.callback(Saboteur, hook)]
    trainer = run(solo, module, *(callbacks if ours_first else callbacks[::-1]))
    assert traces(trainer, module) == []


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize(
    "hook", ["on_fit_start", "on_sanity_check_start", "on_train_start", "on_train_batch_end", "teardown"]
)
def test_after_an_error_in_another_callbacks_on_exception(kit: Any, hook: str, ours_first: bool) -> None:
    module = kit.make(Validated)
    saboteur = kit.callback(Saboteur, hook, "on_exception")
    callbacks = [ExampleSelection(TopLoss(keep=0.5)), saboteur]
    trainer = run(kit, module, *(callbacks if ours_first else callbacks[::-1]))
    assert [
        trace
        for trace in traces(trainer, module)
        if trace.startswith(("strategy", "epoch", "automatic", "manual", "module"))
    ] == []
    for name in (hook, "on_exception"):
        delattr(saboteur, name)
    trainer.fit(module, loader(), loader(8))  # and the next fit of this Trainer works
    assert traces(trainer, module) == []


@pytest.mark.parametrize("where", ["training", "scoring"])
def test_after_a_keyboard_interrupt(kit: Any, where: str) -> None:
    module = kit.make(Fragile, where, KeyboardInterrupt())
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer = run(kit, module, ExampleSelection(TopLoss(keep=0.5)), error=(SystemExit, KeyboardInterrupt))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert traces(trainer, module) == []
    assert module.training
    assert len(module.steps) == (2 if where == "training" else 1)


def test_a_fit_after_a_broken_one_is_a_first_one(solo: Any) -> None:
    callback, module = ExampleSelection(TopLoss(keep=0.5)), solo.make(Fragile, "scoring")
    run(solo, module, callback)
    module.where = ""
    module.steps.clear()
    run(solo, module, callback, error=None)
    assert [len(ids) for ids in module.steps] == [4] * 8


def test_fit_twice(kit: Any) -> None:
    """The second call goes on with the same callback; each has its own patches."""
    callback, module = ExampleSelection(TopLoss(keep=0.5)), kit.make(Classifier)
    trainer = kit.fit(module, callback)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())
    assert traces(trainer, module) == []
    assert [len(ids) for ids in module.steps] == [4] * 8
    assert (callback.counters.seen, callback.counters.trained, callback.counters.steps) == (64, 32, 8)
    kit.fit(module, callback)  # another Trainer
    assert [len(ids) for ids in module.steps] == [4] * 12


class Copies(Classifier):
    """Copies itself in every forward pass, the scoring pass included."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        for copied in (copy.deepcopy(self), pickle.loads(pickle.dumps(self))):
            assert differences(weights(copied), weights(self)) == []
            assert copied.training_step.__func__ is type(self).training_step
        return loss


@pytest.mark.parametrize("refill", [False, True])
def test_the_module_can_be_copied_and_pickled_at_any_moment(kit: Any, refill: bool) -> None:
    module = kit.make(Copies)
    kit.fit(module, ExampleSelection(TopLoss(keep=0.5), refill=refill), data=loader(16))
    assert len(module.passes) > 2
    assert len(module.steps) > 0


def test_a_copy_made_during_training_trains_on_its_own(kit: Any) -> None:
    class Snapshots(Classifier):
        def on_train_batch_end(self, *_: Any) -> None:
            self.__dict__["copied"] = None
            self.__dict__["copied"] = copy.deepcopy(self)

    module = kit.make(Snapshots)
    kit.fit(module, ExampleSelection(TopLoss(keep=0.5)))
    copied, before = module.copied, weights(module)
    copied.steps.clear()
    kit.fit(copied)
    assert [len(ids) for ids in copied.steps] == [8] * 4
    assert differences(weights(module), before) == []
