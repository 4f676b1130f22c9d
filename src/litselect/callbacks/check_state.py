"""What a checkpoint holds for us is what we put there, or an error that says what it is instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

REMEDY = "Resume from a checkpoint that this version of litselect made, or without the callback's state."


def check_state(what: str, state: Any, examples: Mapping[str, Any]) -> dict[str, Any]:
    """`state`, if it has the names and types of `examples` (beside ``None``, a dict will do).

    Raises:
        ValueError: with the names that are missing or unknown, and the values of another type.
    """
    if type(state) is not dict:
        raise ValueError(f"The state of {what} must be a dict, but a {type(state).__name__} was received. {REMEDY}")
    values = cast("dict[str, Any]", state)
    wrong = [f"no {name!r}" for name in examples.keys() - values.keys()]
    wrong += [f"an unknown {name!r}" for name in values.keys() - examples.keys()]
    for name in examples.keys() & values.keys():
        kind, expected = type(values[name]).__name__, [type(examples[name]).__name__]
        expected += ["dict"] * (examples[name] is None)
        if kind not in expected:
            wrong.append(f"{name!r} of type {kind} instead of {' or '.join(expected)}")
    if wrong:
        names = ", ".join(map(repr, examples))
        raise ValueError(f"The state of {what} must hold {names}, but got {', '.join(sorted(wrong))}. {REMEDY}")
    return values
