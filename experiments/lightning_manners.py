"""Lightning as a guest in a command-line program: fewer hints, and a Ctrl-C that stays one."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

BESIDE_THE_POINT = (
    "does not have many workers",  # images lie in memory; a worker process would only copy them
    "is smaller than the logging interval",  # the learning curve does not come from the logger
    "LeafSpec",  # Lightning 2.6 uses a name that torch deprecates (2026-11)
    "exists and is not empty",  # a cell that was interrupted starts anew in its folder
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps out hints that do not apply here; every other warning stays."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for message in BESIDE_THE_POINT:
                warnings.filterwarnings("ignore", message=f".*{message}")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def real_interrupts() -> Iterator[None]:
    """Raises KeyboardInterrupt after Ctrl-C, where Lightning exits with status 1 and ignores further signals."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        yield
    except SystemExit as error:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
