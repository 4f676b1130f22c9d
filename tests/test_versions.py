"""The lower bounds that pyproject.toml declares are the versions that `make test-floor` installs."""

from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def versions(requirements: list[str], operator: str) -> dict[str, str]:
    """By package, the version that `operator` stands before."""
    parsed = map(Requirement, requirements)
    return {r.name: s.version for r in parsed for s in r.specifier if s.operator == operator}


def wrong_pins(dependencies: list[str], floor: list[str]) -> dict[str, Any]:
    """Dependencies whose lower bound is not what the floor has: both versions, None where there is none."""
    names = [Requirement(dependency).name for dependency in dependencies]
    bounds, pins = versions(dependencies, ">="), versions(floor, "==")
    pairs = {name: (bounds.get(name), pins.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if None in pair or pair[0] != pair[1]}


def test_the_lower_bounds_are_tested() -> None:
    assert wrong_pins(PROJECT["project"]["dependencies"], PROJECT["dependency-groups"]["floor"]) == {}


@pytest.mark.parametrize(
    ("dependency", "pin", "wrong"),
    [
        ("torch>=2.13", "torch==2.14", ("2.13", "2.14")),
        ("torch>=2.13", "torch==2.13.0", ("2.13", "2.13.0")),
        ("torch>=2.13", "torch", ("2.13", None)),
        ("torch>=2.13", "torch>=2.13", ("2.13", None)),
        ("torch>=2.13", "numpy==2.13", ("2.13", None)),
        ("torch", "torch==2.13", (None, "2.13")),
    ],
)
def test_a_wrong_pin_is_seen(dependency: str, pin: str, wrong: Any) -> None:
    assert wrong_pins([dependency], [pin]) == {"torch": wrong}


def test_both_homes_of_the_trainer_have_one_bound() -> None:
    groups = PROJECT["dependency-groups"]
    assert versions(groups["test"], ">=")["lightning"] == versions(groups["floor"], "==")["pytorch-lightning"]


def test_the_documentation_names_the_floor() -> None:
    table = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for name, version in versions(PROJECT["dependency-groups"]["floor"], "==").items():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {name} ")]
        assert row.split("|")[2].split(",")[0].strip() == version
