"""Runs cells on several cores or machines, by the launcher that Hydra is told to use."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments import launch
from experiments.build import build
from experiments.cell import clear, seal
from experiments.irreducible import table_of
from experiments.rating import Rated
from experiments.request import Request
from experiments.run import run

BETWEEN_LOOKS = 1.0  # seconds


class Work:
    """What a job does: the run of its number.

    Args:
        requests: of all jobs, as they are numbered.
        code: digest that a finished run is sealed with.
    """

    def __init__(self, requests: list[Request], code: str) -> None:
        self.requests = requests
        self.code = code

    def __call__(self, config: DictConfig) -> None:
        """Trains by the planned config, of which `config` is a copy that Hydra composed anew."""
        logging.getLogger("experiments").setLevel(logging.WARNING)  # this process may be a new one
        request = self.requests[HydraConfig.get().job.num]
        clear(request)
        run(request, launch.read(build(request.config, "data")))
        seal(request, self.code)


def spread(requests: list[Request], code: str, look: Callable[[], None]) -> None:
    """Launches a job for each run and waits for all of them.

    Args:
        requests: the runs, which know what they share.
        code: digest that a finished run is sealed with.
        look: called every second while jobs run, and once afterwards, whatever ends them.

    Raises:
        Exception: that of the first job that failed; the others of its wave have ended by then.
    """
    launch.read(build(requests[0].config, "data"))  # what is missing is fetched once, and before any job starts
    first, then = waves(requests)
    work = Work([*first, *then], code)
    with _regularly(look):
        for wave, start in ((first, 0), (then, len(first))):
            if wave:
                results = launch.launcher(work, wave[0].out.parent).launch([_job(request) for request in wave], start)
                for result in results:
                    _ = result.return_value  # raises what the job raised


def waves(requests: list[Request]) -> tuple[list[Request], list[Request]]:
    """Runs that wait for nobody, and those that use what one of the first makes: irreducible losses or a rater."""
    first, then, made = list[Request](), list[Request](), set[Path]()
    for request in requests:
        shared = _shared(request)
        (then if shared in made else first).append(request)
        made |= {shared} if shared else set()
    return first, then


def _shared(request: Request) -> Path | None:
    """What the run makes unless another run has."""
    selection = build(request.config, "selection")
    if isinstance(selection, Rated):
        return request.shared_rater if selection.artifact is None else None
    table = table_of(selection)
    return request.shared_table if table is not None and table.path is None else None


def _job(request: Request) -> list[str]:
    return [*request.overrides, f"hydra.sweep.subdir={request.out.name}"]


@contextmanager
def _regularly(look: Callable[[], None]) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        while not done.wait(BETWEEN_LOOKS):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()
