"""The command line: Hydra, with one line instead of a traceback where the user can put things right."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.errors import UsageError
from experiments.hydra_versions import FOR_MAIN

INTERRUPTED = 130  # what shells expect after Ctrl-C
REFUSED = 2
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC}


def command(config_name: str, job: Callable[[DictConfig], float | None]) -> None:
    """Runs `job` as a Hydra application with the config `conf/<config_name>.yaml`; what it returns, sweepers optimise.

    Exits with status 2 and a message for bad input, with 130 after Ctrl-C. Other errors keep their traceback, and so
    does everything if HYDRA_FULL_ERROR is set.
    """
    started = False

    def noted(config: DictConfig) -> float | None:
        nonlocal started
        started = True
        return job(config)

    conf = str(Path(__file__).parent / "conf")
    application: Callable[[], None] = hydra.main(config_path=conf, config_name=config_name, **FOR_MAIN)(noted)
    if os.environ.get("HYDRA_FULL_ERROR"):
        application()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra must not print what `explain` puts better
    try:
        application()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
    except Exception as error:
        message = explain(error)
        if message is None and isinstance(error, OSError) and error.filename and not started:
            message = explain_unwritable(error)  # before the job starts, Hydra writes nothing but the output folder
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(REFUSED)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def explain(error: BaseException) -> str | None:
    """What the user has to put right, or None if the error is a fault of the program."""
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        cause, where = error.__cause__, str(error).splitlines()[-1].replace("full_key", "config key")
        if isinstance(cause, UsageError):
            return str(cause)
        return f"{cause} ({where})" if isinstance(cause, ValueError | TypeError | ImportError) else None
    if isinstance(error, HydraException | OmegaConfBaseException):
        return "\n".join([str(error), *([str(error.__cause__)] if error.__cause__ else [])])
    return explain_unwritable(error) if isinstance(error, OSError) and error.errno in UNWRITABLE else None


def explain_unwritable(error: OSError) -> str:
    """What to do where the output folder cannot be made or written."""
    return (
        f"the output folder must be writable, received {error.filename}: {error.strerror}; "
        f"set hydra.run.dir=... (with -m: hydra.sweep.dir=...) to a folder of yours"
    )


def require_complete(config: DictConfig) -> None:
    """Refuses a config that still lacks a value.

    Raises:
        UsageError: naming the keys.
    """
    missing = OmegaConf.missing_keys(config)
    if missing:
        keys = ", ".join(sorted(missing))
        example = " ".join(f"{key}=..." for key in sorted(missing))
        raise UsageError(f"every setting needs a value, received none for {keys}; add {example}")
