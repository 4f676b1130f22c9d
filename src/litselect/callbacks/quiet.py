"""A module that says nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers.logger import DummyLogger

from litselect.scoring.loss_capture import StepDone

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

_MUTED = ("log", "log_dict", "print")


@contextmanager
def quiet(trainer: Trainer, module: LightningModule) -> Generator[None]:
    """Inside, what `module` logs or prints goes nowhere, and its manual backward ends the pass.

    The methods are shadowed on the instances and the loggers replaced by mute ones of the same number. Under manual
    optimization optimizers and schedulers don't step either, should the module let them before its first backward.
    """
    loggers, muted = trainer.loggers, _muted(trainer, module)
    before: list[tuple[dict[str, Any], str, Any]] = []
    for owner, name, function in muted:
        attributes: dict[str, Any] = owner.__dict__
        before.append((attributes, name, attributes.get(name)))
        attributes[name] = function
    try:
        trainer.loggers = [DummyLogger() for _ in loggers]
        yield
    finally:
        trainer.loggers = loggers
        for attributes, name, value in before:
            attributes.pop(name, None)
            if value is not None:
                attributes[name] = value


def _muted(trainer: Trainer, module: LightningModule) -> list[tuple[Any, str, Callable[..., Any]]]:
    """Whose methods are shadowed, and by what."""
    muted: list[tuple[Any, str, Callable[..., Any]]] = [(module, name, _nothing) for name in _MUTED]
    muted.append((module, "manual_backward", _stop))
    if not module.automatic_optimization:
        muted.append((trainer.strategy, "optimizer_step", _evaluate_second))
        muted += [(optimizer, "step", _evaluate) for optimizer in trainer.optimizers]
        muted += [(config.scheduler, "step", _nothing) for config in trainer.lr_scheduler_configs]
    return muted


def _nothing(*_: Any, **__: Any) -> None:
    """In place of a method that would write."""


def _evaluate(closure: Callable[[], Any] | None = None, *_: Any, **__: Any) -> Any:
    """In place of an optimizer's step: the closure, if there is one, is what goes backward."""
    return None if closure is None else closure()


def _evaluate_second(_: Any, closure: Callable[[], Any], *__: Any, **___: Any) -> Any:
    """In place of the strategy's ``optimizer_step``, whose first argument is the optimizer."""
    return closure()


def _stop(loss: Any, *_: Any, **__: Any) -> None:
    """In place of ``manual_backward``: here the loss is known, and nothing after it may run."""
    raise StepDone(loss)
