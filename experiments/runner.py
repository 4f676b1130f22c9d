"""Runs the cells of a comparison that are not done yet."""

import dataclasses
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments import launch
from experiments.build import build
from experiments.cell import Cell, clear, code_digest, finished, rater_folder, seal, table_file
from experiments.report import Outcome
from experiments.run import Request, run
from experiments.spread import spread
from experiments.watcher import Watcher


class Runner:
    """Keeps finished cells, runs the others, and knows at any time what is done.

    They run one after the other, or, if the command line asks for another launcher than `basic`, as that spreads them.

    Args:
        requests: the run that serves each cell; cells may share one.
        any_code: whether cells are kept that finished with other code.
        console: where progress goes.
    """

    def __init__(self, requests: dict[Cell, Request], any_code: bool, console: Console) -> None:
        self.requests = requests
        self.code = code_digest()
        self.console = console
        needed = None if any_code else self.code
        self._runs = {request.out: (cell, request) for cell, request in reversed(requests.items())}
        self._done = {
            out: summary
            for out, (_, request) in self._runs.items()
            if (summary := finished(request, needed)) is not None
        }

    def outcomes(self) -> list[Outcome]:
        """What is done, in the order of the plan."""
        return [
            Outcome(cell.name, cell.unit, cell.epochs, cell.seed, request.out, self._done[request.out])
            for cell, request in self.requests.items()
            if request.out in self._done
        ]

    def run(self) -> None:
        """Runs what is not done, in the order of the plan.

        Raises:
            KeyboardInterrupt: after Ctrl-C; cells finished before stay done.
        """
        if self._done:
            self.console.print(f"{len(self._done)} of {len(self._runs)} runs are finished already and kept.")
        missing = list(
            dict.fromkeys(request.out for request in self.requests.values() if request.out not in self._done)
        )
        with _bars(self.console) as bars:
            overall = bars.add_task("all runs", total=len(self._runs), count="")
            self._show(bars, overall)
            if launch.chosen("launcher") == "basic":
                for out in missing:
                    self._finish(out, self._run_one(out, bars))
                    self._show(bars, overall)
            elif missing:
                requests = [self._sharing(self._runs[out][1]) for out in missing]
                spread(requests, self.code, lambda: self._look(missing, bars, overall))

    def _show(self, bars: Progress, overall: TaskID) -> None:
        done, total = len(self._done), len(self._runs)
        bars.update(overall, completed=done, count=f"{done}/{total}")

    def _finish(self, out: Path, summary: dict[str, Any]) -> None:
        self._done[out] = summary
        accuracy, seconds = summary["test_accuracy"], summary["seconds"]
        self.console.print(f"{self._name(out)}: accuracy {accuracy:.4f}, {seconds:.1f} s")

    def _look(self, missing: list[Path], bars: Progress, overall: TaskID) -> None:
        """Notices what other processes have finished."""
        for out in missing:
            if out not in self._done and (summary := finished(self._runs[out][1], self.code)) is not None:
                self._finish(out, summary)
        self._show(bars, overall)

    def _name(self, out: Path) -> str:
        cell, _ = self._runs[out]
        return f"seed {cell.seed}: {cell.name}, {cell.epochs} epochs of {cell.unit}"

    def _run_one(self, out: Path, bars: Progress) -> dict[str, Any]:
        """One run, with a bar of its own while it lasts."""
        _, request = self._runs[out]
        clear(request)
        bar = bars.add_task(self._name(out), total=1.0, count="")
        watchers: tuple[Callback, ...] = (Watcher(bars, bar),)
        try:
            summary = run(self._sharing(request), launch.read(build(request.config, "data")), watchers)
        finally:
            bars.remove_task(bar)
        seal(request, self.code)
        return summary

    def _sharing(self, request: Request) -> Request:
        """The request, told where irreducible losses and a rater lie that others may have made already."""
        return dataclasses.replace(
            request, shared_table=table_file(request, self.code), shared_rater=rater_folder(request, self.code)
        )


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
