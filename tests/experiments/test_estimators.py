"""`python -m experiments.estimators`: what it compares and what it counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

from experiments.look_aheads import problems
from experiments.look_aheads.operations import operations, plain_step
from experiments.look_aheads.problems import Problem
from experiments.records import read
from litselect.scoring.meta_gradients import LookAhead
from tests.experiments.conftest import Command


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, in its rules for forward mode
def test_forward_mode_and_second_derivatives_are_counted() -> None:
    x, w = torch.randn(3, 4), torch.randn(4, 5, requires_grad=True)
    product = 2 * 3 * 4 * 5
    assert operations(lambda: x @ w) == product
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(w, torch.ones_like(w))
        assert operations(lambda: x @ dual) == 3 * product  # the tangent of x, which is zero, is multiplied, too

    def twice() -> None:
        (first,) = torch.autograd.grad((x @ w).square().sum(), w, create_graph=True)
        torch.autograd.grad(first.sum(), w)

    assert operations(twice) == 4 * product  # forward; backward; the derivatives of both


def test_operations_of_a_transformer_are_those_on_paper() -> None:
    problem = Problem.of("transformer", "SGD", 2, 4, seed=0)
    plain = operations(lambda: plain_step(problem.objective, problem.start, problem.batches[0]))
    window = problem.window(lambda batch, _: torch.zeros(len(batch[0])).double(), torch.float64)
    for estimator, steps in (("adjoint", 4 * 2 - 1), ("fd", 3 * 2 - 1 / 3)):
        ahead = LookAhead(problem.objective, problem.optimizer, estimator)  # pyright: ignore[reportArgumentType]
        ahead(window)
        assert operations(lambda ahead=ahead: ahead(window)) / plain == pytest.approx(steps, rel=1e-3)


def test_rows_and_page(application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import estimators
    from experiments.look_aheads import accuracy_page

    some: dict[str, Any] = {name: problems.NETWORKS[name] for name in ("MLP",)}
    one: dict[str, Any] = {"Adam": problems.OPTIMIZERS["Adam"]}
    for module in (estimators, accuracy_page):
        monkeypatch.setattr(module, "NETWORKS", some)
        monkeypatch.setattr(module, "OPTIMIZERS", one)
    assert application("estimators", f"out={tmp_path}", "seeds=[0]", "steps=[1,2]", "rows=8") == 0
    rows = read(tmp_path / "estimators.csv")
    assert {(row["estimator"], row["steps"]) for row in rows} == {
        ("unroll", "1"), ("adjoint", "1"), ("jvp", "1"), ("fd", "1"), ("unroll", "2"), ("adjoint", "2"), ("fd", "2"),
    }  # fmt: skip
    exact = [row for row in rows if row["estimator"] in ("adjoint", "jvp") and row["precision"] == "float64"]
    assert all(float(row["error"]) < 1e-12 and float(row["cosine"]) > 1 - 1e-6 for row in exact)
    text = (tmp_path / "estimators.md").read_text()
    assert text.count("| MLP") == 3
    assert f"python -m experiments.estimators out={tmp_path}" in text
