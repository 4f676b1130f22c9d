"""Why a forward can't be re-used."""

from __future__ import annotations


class Unsupported(Exception):
    """This forward can't be re-used; the message says why, as the end of a sentence."""


class Diverged(BaseException):
    """A replay left its plan. Not an `Exception`, so that no step swallows it."""


class Reached(BaseException):
    """A probe came to its first loss, after which nothing is of interest."""
