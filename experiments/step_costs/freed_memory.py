"""What it costs to give freed memory back to the system: trainings, each alone in a process that does, or does not."""

from collections.abc import Sequence
from fractions import Fraction
from multiprocessing import get_context
from statistics import median

import torch

from experiments.allocator import keep_memory
from experiments.lightning_manners import quiet
from experiments.records import Row
from experiments.step_costs.clock import clock
from experiments.step_costs.fit import Columns, fit
from experiments.step_costs.models import Subject
from experiments.step_costs.options import OPTIONS, selection
from experiments.step_costs.step_times import StepTimes

DISCARDED, TIMED = 12, 24  # batches
WAYS = {"given back": None, "kept": keep_memory}  # and what makes a process do so


def measure(subjects: Sequence[Subject], options: Sequence[str], keep: Fraction, threads: int) -> list[Row]:
    """A row for each network, option and way with memory.

    A process is used once: how large blocks are that it keeps depends on all that it freed before.

    Args:
        subjects: the networks.
        options: names, beside plain training.
        keep: kept fraction.
        threads: of torch.
    """
    rows = list[Row]()
    for subject in subjects:
        for option in (None, *options):
            for way, prepare in WAYS.items():
                with get_context("spawn").Pool(1, prepare) as process:
                    seconds, pages = process.apply(_training, (subject, option, keep, threads))
                rows.append(
                    {
                        "model": subject.name, "n": str(subject.rows), "keep": str(keep),
                        "option": option or "plain", "memory": way, "ms": f"{1e3 * seconds:.3f}",
                        "pages": f"{pages:.0f}",
                    }
                )  # fmt: skip
    return rows


def _training(subject: Subject, option: str | None, keep: Fraction, threads: int) -> tuple[float, float]:
    """Of a step: seconds, and pages that the system handed out."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    times, pages = StepTimes(clock("cpu"), discard=DISCARDED), StepTimes(_pages, discard=DISCARDED)
    data = Columns(*subject.noise(subject.rows * (DISCARDED + TIMED + 1)))
    selects, epochs = selection(OPTIONS[option] if option else None, float(keep), subject)
    callbacks = [times, pages, *selects]
    with quiet():
        fit(subject.learner(), data, subject.rows, callbacks, device="cpu", precision="fp32", epochs=epochs)
    return median(times.seconds), median(pages.seconds)


def _pages() -> float:
    import resource  # not on Windows, where there is nothing to measure

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
