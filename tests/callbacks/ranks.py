"""Processes that train together, and that can be killed.

They are forked from a server that has imported torch and Lightning once, so that a group of them starts in a moment.
"""

import faulthandler
import functools
import io
import multiprocessing
import os
import signal
import socket
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HANG = 60  # seconds after which a group is taken for stuck


class Hang(AssertionError):
    """A group of processes did not end in time."""


class Group:
    """Runs ``function(*args)`` in `world` processes, as torchrun would start them, and gives back what they return.

    Args:
        world: number of processes; one of them alone is no group for torch.
        function: a function of a module that can be imported.
    """

    def __init__(self, world: int, function: Callable[..., Any], *args: Any) -> None:
        self.folder = Path(tempfile.mkdtemp())
        port = free_port()
        context = _context()
        self.processes = [
            context.Process(target=_rank, args=(rank, world, port, str(self.folder), function, args))
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def results(self, timeout: float = HANG) -> list[Any]:
        """What every rank returned.

        Raises:
            Hang: with the stack of every rank, if one is not done after `timeout` seconds.
            AssertionError: with the traceback, if one raised.
        """
        self.wait(timeout)
        for rank, process in enumerate(self.processes):
            error = self.folder / f"{rank}.error"
            assert not error.exists(), f"rank {rank} raised:\n{error.read_text()}"
            assert process.exitcode == 0, f"rank {rank} ended with exit code {process.exitcode}"
        return [_load(self.folder / f"{rank}.result") for rank in range(len(self.processes))]

    def wait(self, timeout: float = HANG) -> list[int | None]:
        """Wait for the end of all, whichever way; if one fails the others are given some seconds, then ended."""
        try:
            return self._wait(timeout)
        finally:
            self.kill()

    def _wait(self, timeout: float) -> list[int | None]:
        deadline = time.monotonic() + timeout
        while any(process.is_alive() for process in self.processes):
            if any(process.exitcode for process in self.processes):
                deadline = min(deadline, time.monotonic() + 5)
                for process in self.processes:
                    process.join(max(0, deadline - time.monotonic()))
                break
            if time.monotonic() > deadline:
                raise Hang(f"not done after {timeout} seconds:\n{self._stacks()}")
            self.processes[0].join(0.02)
            time.sleep(0.005)
        return [process.exitcode for process in self.processes]

    def kill(self, *ranks: int) -> None:
        """SIGKILL."""
        for rank in ranks or range(len(self.processes)):
            self.processes[rank].kill()
        for rank in ranks or range(len(self.processes)):
            self.processes[rank].join()

    def _stacks(self) -> str:
        alive = [(rank, process) for rank, process in enumerate(self.processes) if process.is_alive()]
        for _, process in alive:
            os.kill(process.pid, signal.SIGUSR2)
        time.sleep(3)
        return "\n".join(f"rank {rank}:\n{(self.folder / f'{rank}.stack').read_text()}" for rank, _ in alive)


def run(world: int, function: Callable[..., Any], *args: Any, timeout: float = HANG) -> list[Any]:
    """What ``function(*args)`` returns on each of `world` ranks."""
    return Group(world, function, *args).results(timeout)


def pipe() -> Any:
    """A pipe to or from the processes: the end that receives, the end that sends."""
    return _context().Pipe(duplex=False)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@functools.cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.fsdp", "pytorch_lightning", "litselect.callbacks"])
    return context


def _rank(rank: int, world: int, port: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import torch

    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        TORCHELASTIC_RUN_ID="test",
    )
    if world == 1:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
            del os.environ[name]
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for workers of loaders: a server of each rank is slow
    here = Path(folder)
    stack = (here / f"{rank}.stack").open("w")
    faulthandler.register(signal.SIGUSR2, stack, all_threads=True)
    try:
        result = function(*args)
        buffer = io.BytesIO()
        torch.save(result, buffer)
        (here / f"{rank}.result").write_bytes(buffer.getvalue())
    except BaseException:
        (here / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)  # a process group whose others hang would make this one wait at its end
    os._exit(0)


def _load(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=False)


class Warned:
    """Collects the messages of warnings inside."""

    def __enter__(self) -> list[str]:
        self.messages: list[str] = []
        self._catch = warnings.catch_warnings(record=True)
        self._caught: Any = self._catch.__enter__()
        warnings.simplefilter("always")
        return self.messages

    def __exit__(self, *error: Any) -> None:
        self._catch.__exit__(*error)
        self.messages += [str(warning.message) for warning in self._caught]
