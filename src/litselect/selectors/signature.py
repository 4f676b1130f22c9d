"""What a selector's `select` takes, read off its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

SCORES: Final = ("losses", "logits", "targets", "ids", "ratings", "percentiles", "confidences", "ages")
"""The tensors that a selector can be given, one row a candidate."""

_CONTEXT: Final = frozenset({"candidates", "device", "mean_loss"})


def read_signature(owner: str, select: Callable[..., Any]) -> tuple[frozenset[str] | None, frozenset[str]]:
    """All that `select` takes (None: whatever there is), and the scores that it can't do without.

    Args:
        owner: name of its class, for the messages.
        select: the method.

    Raises:
        TypeError: if it asks for what no one provides, or takes scores by place.
    """
    parameters = inspect.signature(select).parameters.values()
    named = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    if placed := [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name in SCORES]:
        raise TypeError(
            f"Scores are given by name, but {owner}.select takes {', '.join(placed)} by place. Write "
            f"def select(self, k, *, {', '.join(placed)})."
        )
    if unknown := sorted(named.keys() - {*SCORES, *_CONTEXT}):
        raise TypeError(
            f"{owner}.select asks for {', '.join(unknown)}, which no one provides. "
            f"Its keyword-only parameters can be {', '.join(SCORES)}, candidates and device."
        )
    takes = None if any(p.kind is p.VAR_KEYWORD for p in parameters) else frozenset(named)
    return takes, frozenset(name for name, p in named.items() if p.default is p.empty and name in SCORES)
