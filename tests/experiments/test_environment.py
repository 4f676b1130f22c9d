"""What is written down about the machine, and how threads are set."""

import torch

from experiments import environment
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
