"""Lengths that need not be told."""

from __future__ import annotations

from typing import Any


def told_length(sized: Any) -> int | None:
    """The length of a loader, a sampler or a data set; None where it tells none, in either way that Lightning takes."""
    try:
        return len(sized)
    except (TypeError, NotImplementedError):  # it has no length, or only a method that says so
        return None
