"""The shape annotations of litselect hold while the tests run, and bind nobody else."""

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

from litselect.selectors import Selection, TopLoss, fixed_size
from tests import shapes

ROOT = Path(__file__).parents[1]


def test_a_wrong_shape_is_caught() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="losses"):
        TopLoss().select(2, losses=torch.rand(4, 1))
    with pytest.raises(jaxtyping.TypeCheckError, match="indices"):
        Selection(torch.zeros(2, 2, dtype=torch.int64))


def test_a_wrong_dtype_is_caught() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="indices"):
        Selection(torch.zeros(2))


def test_two_arguments_that_disagree_are_caught() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="weights"):
        Selection(torch.arange(2), torch.ones(3))


def test_a_wrong_answer_is_caught() -> None:
    class Shrinking:
        def halve(self, losses: "jaxtyping.Float[Tensor, ' batch']") -> "Float[Tensor, ' batch']":
            return losses[::2]

    Shrinking.halve.__annotations__["losses"] = "Float[Tensor, ' batch']"
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        shapes.checked(Shrinking.halve)(Shrinking(), torch.rand(4))


def test_a_shape_that_cannot_be_resolved_is_no_any() -> None:
    def typo(losses: "Float[Tensr, ' batch']") -> None: ...

    with pytest.raises(NameError, match="Tensr"):
        shapes.checked(typo)


@pytest.mark.usefixtures("any_shape")
def test_the_fixture_lifts_the_check() -> None:
    Selection(torch.zeros(2, 2, dtype=torch.int64))


def test_no_annotated_function_is_forgotten() -> None:
    expected = set()
    for file in (ROOT / "src").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
        if module in sys.modules:
            _collect(ast.parse(file.read_text()), module, expected)
    assert len(expected) > 8
    assert expected <= shapes.CHECKED


def _collect(node: ast.AST, prefix: str, found: set[str]) -> None:
    for child in getattr(node, "body", []):
        if isinstance(child, ast.ClassDef):
            _collect(child, f"{prefix}.{child.name}", found)
        elif isinstance(child, ast.FunctionDef):
            arguments = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
            annotations = [*(argument.annotation for argument in arguments), child.returns]
            if any(shapes.SHAPE.search(ast.unparse(annotation)) for annotation in annotations if annotation):
                found.add(f"{prefix}.{child.name}")


def test_doctests_of_checked_functions_are_still_found() -> None:
    found = {test.name.rpartition(".")[2] for test in doctest.DocTestFinder().find(fixed_size) if test.examples}
    assert "inclusion_probabilities" in found
    assert "litselect.selectors.fixed_size.inclusion_probabilities" in shapes.CHECKED


def test_outside_the_tests_neither_jaxtyping_nor_beartype_is_imported() -> None:
    code = "import sys, litselect.selectors, litselect.scoring; print({'jaxtyping', 'beartype'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "set()"
