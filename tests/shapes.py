"""Turns the shape annotations of a package into assertions, for the time of the tests.

jaxtyping's own import hook can't be used: the names in our annotations exist under `TYPE_CHECKING` alone, and it takes
annotations that it can't resolve for `Any`, silently. (It would also enforce annotations that are no shapes: beartype
refuses `keep=1`, as 1 is no float.)
"""

import functools
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import FunctionType, ModuleType
from typing import Any

import jaxtyping
import numpy
import torch
from beartype import beartype

DTYPES = {
    name: kind
    for name, kind in vars(jaxtyping).items()
    if isinstance(kind, type) and issubclass(kind, jaxtyping.AbstractDtype)
}
NAMES = {**DTYPES, "Tensor": torch.Tensor, "torch": torch, "np": numpy}
SHAPE = re.compile(rf"\b({'|'.join(DTYPES)})\[[\w.]+, ['\"]")

CHECKED: set[str] = set()
"""The full names of the functions that are checked, for the record."""


def enforce(package: str) -> None:
    """Check the shapes in every module of `package` that is imported from now on.

    Raises:
        RuntimeError: if the package has been imported already, so that nothing would be checked.
    """
    if package in sys.modules:
        raise RuntimeError(f"The shapes of {package} can be enforced only before it is imported.")
    sys.meta_path.insert(0, _Finder(package))


@contextmanager
def unchecked() -> Iterator[None]:
    """Any shape passes: for what a user is told about a wrong one, and for loops of ten thousand calls."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def checked(function: Any) -> Any:
    """`function` (or the classmethod, ...) with its shape annotations enforced; itself, if it has none.

    Raises:
        NameError: if a shape annotation can't be resolved.
    """
    if isinstance(function, (classmethod, staticmethod)):
        inner = checked(function.__func__)
        return function if inner is function.__func__ else type(function)(inner)
    if isinstance(function, property):
        inner = checked(function.fget)
        return function if inner is function.fget else property(inner, function.fset, function.fdel)
    if not isinstance(function, FunctionType):
        return function
    annotations = function.__annotations__
    shapes = {
        name: eval(annotation, dict(NAMES))
        for name, annotation in annotations.items()
        if isinstance(annotation, str) and SHAPE.search(annotation)
    }
    if not shapes:
        return function
    function.__annotations__ = shapes
    judge = jaxtyping.jaxtyped(function, typechecker=beartype)
    function.__annotations__ = annotations
    CHECKED.add(f"{function.__module__}.{function.__qualname__}")

    def call(*args: Any, **kwargs: Any) -> Any:
        return judge(*args, **kwargs)

    # At home in the function's own module: doctest overlooks functions from elsewhere.
    at_home = FunctionType(call.__code__, function.__globals__, function.__name__, None, call.__closure__)
    return functools.wraps(function)(at_home)


class _Finder:
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)  # nobody else has a reference to its functions yet
        own = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, (type, FunctionType)) and value.__module__ == module.__name__
        }
        for owner in (module, *(value for value in own.values() if isinstance(value, type))):
            for name, value in list((own if owner is module else vars(owner)).items()):
                if (replacement := checked(value)) is not value:
                    setattr(owner, name, replacement)
