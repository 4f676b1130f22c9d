"""Networks that are compiled for a scoring pass alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

Compiled = dict[int, tuple[nn.Module, Callable[..., Any]]]
"""By the id of a child: the child, which keeps the id alive, and its compiled call."""


@contextmanager
def compiled_parts(module: nn.Module, compiled: Compiled) -> Generator[None]:
    """Inside, the children of `module` that have parameters run compiled; its own code runs as it is.

    Losses are captured from functions that Python calls, and compiled code calls none: so the children must not compute
    the loss. Children that were compiled before run as they were compiled.

    Args:
        module: the module whose step runs inside.
        compiled: the compiled calls, which are kept from pass to pass.
    """
    children = {id(child): child for child in _called(module)}
    before: dict[int, Any] = {}
    try:
        for key, child in children.items():
            own = child.__dict__
            before[key] = own.get("_compiled_call_impl")
            if key not in compiled:
                compiled[key] = (child, _unseen(_compiled_call(cast("Any", child))))
            own["_compiled_call_impl"] = compiled[key][1]
        yield
    finally:
        for key, call in before.items():
            own = children[key].__dict__
            if call is None:
                own.pop("_compiled_call_impl", None)
            else:
                own["_compiled_call_impl"] = call


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """The children that have parameters; of lists of modules, which are not called themselves, theirs."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _called(child)
        elif next(child.parameters(), None) is not None:
            yield child


def _compiled_call(child: Any) -> Callable[..., Any]:
    """What runs a child: compiled anew, unless it was."""
    if hasattr(child, "_orig_mod"):
        return child._call_impl
    if child._compiled_call_impl is not None:
        return child._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:  # not the method: torch 2.13 compiles none of its own modules'
        return child._call_impl(*args, **kwargs)

    call.__code__ = call.__code__.replace()  # one of its own, for torch compiles a code for eight modules at most
    return torch.compile(call)


def _unseen(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, which the mode that captures losses does not look into."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with cast("Any", torch)._C.DisableTorchFunction():
            return call(*args, **kwargs)

    return run
