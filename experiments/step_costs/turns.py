"""Pieces of work that take turns, each in a thread of its own, of which one runs at a time.

So several Trainers can be in the middle of their `fit` at once, and what disturbs the machine disturbs all alike.
"""

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

import torch

Name = TypeVar("Name", bound=Hashable)
Pause = Callable[[], None]
"""Lets the others have their turns."""

Work = Callable[[Pause, Pause], None]
"""Called with a pause between turns, and another one for the end of the last turn, before anything is cleared away."""


class Aborted(BaseException):
    """Another piece of work has failed."""


class _Worker:
    """One piece of work."""

    def __init__(self, work: Work) -> None:
        self.done = self.over = self.aborted = False
        self.error: BaseException | None = None
        self._work, self._threads = work, torch.get_num_threads()
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def turn(self) -> None:
        """Run until the next pause, or the end."""
        if not self._thread.ident:
            self._thread.start()
        self._go.release()
        self._back.acquire()
        if self.error is not None:
            raise self.error

    def abort(self) -> None:
        """End it at its pause."""
        if self._thread.ident and not self.over:
            self.aborted = True
            self._go.release()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            torch.set_num_threads(self._threads)  # which is a setting of the thread
            self._work(self._pause, self._end)
        except Aborted:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.done = self.over = True
            self._back.release()

    def _pause(self) -> None:
        self._back.release()
        self._go.acquire()
        if self.aborted:
            raise Aborted

    def _end(self) -> None:
        self.done = True
        self._pause()


class Turns(Generic[Name]):
    """Runs pieces of work by turns, each round beginning with another one.

    Args:
        works: by name.
    """

    def __init__(self, works: Mapping[Name, Work]) -> None:
        self._workers = [_Worker(work) for work in works.values()]

    def run(self) -> None:
        """Until all are done; only then any of them clears away.

        Raises:
            BaseException: what one of them raised; the others are ended.
        """
        number = 0
        try:
            while any(not worker.done for worker in self._workers):
                turn = number % len(self._workers)
                for worker in self._workers[turn:] + self._workers[:turn]:
                    if not worker.done:
                        worker.turn()
                number += 1
            for worker in self._workers:
                if not worker.over:
                    worker.turn()
        finally:
            for worker in self._workers:
                worker.abort()
