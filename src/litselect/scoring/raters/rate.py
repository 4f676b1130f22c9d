"""Calling a rater with what it asks for."""

from __future__ import annotations

import inspect
from typing import Any, Final

from torch import Tensor, nn

NAMES: Final = ("inputs", "targets", "ids", "statistics")
"""What a rater's ``forward`` may ask for: see `rate`."""


def asks_for(rater: nn.Module) -> tuple[str, ...]:
    """The names among `NAMES` of the arguments of ``forward``; one argument of another name is the inputs.

    Raises:
        ValueError: if it needs others, too.
    """
    return tuple(_arguments(rater))


def _arguments(rater: nn.Module) -> dict[str, bool]:
    """What is asked for, and whether it is needed."""
    parameters = list(inspect.signature(rater.forward).parameters.values())
    named = {p.name: p.default is p.empty for p in parameters if p.name in NAMES}
    others = [p for p in parameters if p.name not in NAMES and p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if named and all(p.kind is p.VAR_POSITIONAL for p in others):
        return named
    if not named and len(others) == 1:
        return {"inputs": True}
    raise ValueError(
        f"The forward of a rater takes some of {', '.join(NAMES)}, by name, or one argument for the inputs, but that "
        f"of {type(rater).__name__} takes {', '.join(p.name for p in parameters) or 'nothing'}. Rename its arguments."
    )


def rate(rater: nn.Module, known: dict[str, Any]) -> Tensor:
    """One rating per example, ``[N]`` float32 (float64 where the rater computes in it).

    Args:
        rater: any module whose ``forward`` takes ``inputs`` (the examples), ``targets``, ``ids`` or ``statistics`` (see
            `statistics_of`) by name, or the inputs as its one argument, and answers with ``[N]`` or ``[N, 1]``.
        known: those that there are.

    Raises:
        ValueError: if the rater asks for something else, or answers otherwise.
    """
    arguments = _arguments(rater)
    names = [name for name in arguments if known.get(name) is not None]
    if missing := [name for name, needed in arguments.items() if needed and name not in names]:
        raise ValueError(
            f"{type(rater).__name__} needs {', '.join(missing)}, but only {', '.join(known) or 'nothing'} is known of "
            "the batch. Pass `fields=lambda batch: {'inputs': ..., 'targets': ..., 'ids': ...}`, which finds them."
        )
    n = len(known[next(name for name in NAMES if known.get(name) is not None)])
    by_name = any(name in inspect.signature(rater.forward).parameters for name in NAMES)
    ratings: Any = rater(**{name: known[name] for name in names}) if by_name else rater(known["inputs"])
    if not isinstance(ratings, Tensor) or ratings.shape not in ((n,), (n, 1)):
        got = f"shape {tuple(ratings.shape)}" if isinstance(ratings, Tensor) else type(ratings).__name__
        raise ValueError(
            f"A rater answers with one number per example, a tensor of shape ({n},), but {type(rater).__name__} "
            f"answered with {got}. For one output per class use LabelledImageRater, which picks that of the label."
        )
    ratings = ratings.reshape(n)
    return ratings if ratings.dtype.itemsize >= 4 else ratings.float()
