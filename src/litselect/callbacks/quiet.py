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

    The methods are shadowed on the instance and the loggers replaced by mute ones of the same number.
    """
    loggers = trainer.loggers
    shadows: dict[str, Callable[..., Any]] = {**dict.fromkeys(_MUTED, _nothing), "manual_backward": _stop}
    before = {name: vars(module)[name] for name in shadows if name in vars(module)}
    vars(module).update(shadows)
    try:
        trainer.loggers = [DummyLogger() for _ in loggers]
        yield
    finally:
        trainer.loggers = loggers
        for name in shadows:
            del vars(module)[name]
        vars(module).update(before)


def _nothing(*_: Any, **__: Any) -> None:
    """In place of a method that would write."""


def _stop(loss: Any, *_: Any, **__: Any) -> None:
    """In place of ``manual_backward``: here the loss is known, and nothing after it may run."""
    raise StepDone(loss)
