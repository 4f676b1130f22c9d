"""Every selector keeps every clause of the contract, and every clause notices a selector that breaks it."""

import pytest

from litselect import selectors
from tests.selectors.case import Case
from tests.selectors.checks import CHECKS
from tests.selectors.faults import FAULTS
from tests.selectors.registry import CASES, SPECIMENS, WRAPPED_TWICE

DRAWN = ("equal_rows_are_treated_alike", "the_choice_follows_a_permutation", "planted_hard_rows_are_preferred")
PAIRS = [
    (name, case) for case in CASES + WRAPPED_TWICE + SPECIMENS for name, (_, applies) in CHECKS.items() if applies(case)
]


def is_soak(name: str, case: Case) -> bool:
    """Wrappers of wrappers, by far the most, but for two of them; and thousands of draws of what estimates for each."""
    return case in WRAPPED_TWICE[2:] or (str(case) == "NoiseGuard-auto" and name in DRAWN)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{case}-{name}", marks=pytest.mark.slow if is_soak(name, case) else ())
        for name, case in PAIRS
    ],
)
def test_the_contract_holds(name: str, case: Case) -> None:
    CHECKS[name][0](case)


@pytest.mark.usefixtures("any_shape")
@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}-{fault}" for name, fault in FAULTS])
def test_a_fault_is_noticed(name: str, fault: Case) -> None:
    with pytest.raises(AssertionError):
        CHECKS[name][0](fault)


def test_every_clause_has_a_fault_that_it_notices() -> None:
    assert {name for name, _ in FAULTS} == CHECKS.keys()


def test_every_clause_is_applied() -> None:
    assert {name for name, _ in PAIRS} == CHECKS.keys()


def test_every_selector_is_registered() -> None:
    """A new public selector must have its line in the registry."""
    public = {name for name in selectors.__all__ if name not in ("Selector", "Selection")}
    assert {type(case.fresh()).__name__ for case in CASES} == public
