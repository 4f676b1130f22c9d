"""How exact the estimators of meta-gradients are, and what they compute: `python -m experiments.estimators`.

Compares the gradient of a rater by every estimator with that by unrolling in float64, for small networks in training,
and writes `estimators.md` and `estimators.csv`.
"""

import logging
from pathlib import Path
from typing import get_args

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from experiments.cli import command, require_complete
from experiments.files import write_text
from experiments.look_aheads.accuracy_page import page
from experiments.look_aheads.operations import operations, plain_step
from experiments.look_aheads.problems import NETWORKS, OPTIMIZERS, Problem
from experiments.records import Row, write
from experiments.threads import threads
from litselect.scoring.meta_gradients import Estimator, LookAhead

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}


def main(config: DictConfig) -> None:
    """Measures, and writes the page."""
    require_complete(config)
    logging.getLogger("litselect").setLevel(logging.WARNING)
    console, out = Console(highlight=False, soft_wrap=True), Path(config.out)
    rows: list[Row] = []
    with threads(1, 0):
        for network in NETWORKS:
            for steps in config.steps:
                counted = _operations(network, steps, config.rows)
                for optimizer in OPTIMIZERS:
                    for seed in config.seeds:
                        rows += _compare(Problem.of(network, optimizer, steps, config.rows, seed), counted, {
                            "network": network, "optimizer": optimizer, "steps": str(steps), "seed": str(seed),
                        })  # fmt: skip
                console.print(f"{network}, T = {steps}: " + ", ".join(f"{e} {n:.2f}" for e, n in counted.items()))
        write(out / "estimators.csv", rows)
        line = " ".join(("python -m experiments.estimators", *HydraConfig.get().overrides.task))
        write_text(out / "estimators.md", page(config, line, rows))
    console.print(str(out / "estimators.md"))


def _available(steps: int) -> list[Estimator]:
    return [name for name in get_args(Estimator) if name != "auto" and (name != "jvp" or steps == 1)]


def _compare(problem: Problem, counted: dict[str, float], which: Row) -> list[Row]:
    """A row for each estimator and precision."""
    exact = problem.gradient("unroll", torch.float64)
    rows: list[Row] = []
    for estimator, ratio in counted.items():
        for name, dtype in PRECISIONS.items():
            found = problem.gradient(estimator, dtype)  # pyright: ignore[reportArgumentType] - one of the names
            error, cosine = (found - exact).norm() / exact.norm(), F.cosine_similarity(found, exact, 0)
            values = {"error": f"{error:.3g}", "cosine": f"{cosine:.9f}", "operations": f"{ratio:.4f}"}
            rows.append({**which, "estimator": estimator, "precision": name, **values})
    return rows


def _operations(network: str, steps: int, rows: int) -> dict[str, float]:
    """Of a window, as a multiple of a plain step's; the rater costs nothing here, and the optimizer is not counted."""
    problem = Problem.of(network, "SGD", steps, rows, seed=0)

    def rate(batch: tuple[Tensor, ...], _: object) -> Tensor:
        return torch.zeros(len(batch[0]), dtype=torch.float64)

    window = problem.window(rate, torch.float64)
    plain = operations(lambda: plain_step(problem.objective, problem.start, problem.batches[0]))
    found: dict[str, float] = {}
    for estimator in _available(steps):
        ahead = LookAhead(problem.objective, problem.optimizer, estimator)
        ahead(window)  # the first window finds out what the operators of the model can do
        found[estimator] = operations(lambda ahead=ahead: ahead(window)) / plain
    return found


if __name__ == "__main__":
    command("estimators", main)
