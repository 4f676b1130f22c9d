"""What is written down about the machine, how threads are set, and what becomes of freed memory."""

import multiprocessing
from collections.abc import Callable

import pytest
import torch

from experiments import environment
from experiments.allocator import keep_memory
from experiments.threads import threads


def test_environment_names_what_a_result_depends_on() -> None:
    facts = environment.describe()
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert "cores" in facts["hardware"]
    assert {"python", "litselect", "pytorch-lightning", "hydra-core", "commit"} <= facts.keys()


def test_small_steps_take_one_thread_and_large_ones_all() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for step, expected in ((10**6, 1), (10**10, 2)):
            with threads("auto", step):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 2
        with threads(1, 10**10):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def _pages_of_steps() -> int:
    """That the system hands out for five steps with results of 40 MB, which glibc never keeps by itself."""
    import resource

    rows = torch.randn(10_000_000)
    pages = list[int]()
    for _ in range(10):
        rows.relu().neg().exp()
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return pages[-1] - pages[4]


@pytest.mark.parametrize(("prepare", "kept"), [(keep_memory, True), (None, False)])
def test_kept_memory_is_used_again(prepare: Callable[[], bool] | None, kept: bool) -> None:
    """In a process of its own; one that was told nothing is the negative control."""
    if not keep_memory():
        pytest.skip("other C libraries can't be told")
    with multiprocessing.get_context("spawn").Pool(1, prepare) as process:
        pages = process.apply(_pages_of_steps)
    assert pages < 1_000 if kept else pages > 50_000
