"""The structure of a batch: a nest of containers, and what in it is a column of rows.

What counts as what is said in `litselect.scoring.rows`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
from torch import Tensor


def is_flat(node: Any) -> bool:
    """Whether a batch is a plain list or tuple of tensors with rows, as nearly all are: the short way for those."""
    return type(node) in (list, tuple) and bool(node) and all(type(leaf) is Tensor and leaf.ndim > 0 for leaf in node)


def children_of(node: Any) -> dict[Any, Any] | None:
    """The children of a container by key, or None for a leaf."""
    if isinstance(node, Mapping):
        return dict(cast("Mapping[Any, Any]", node))
    if isinstance(node, (list, tuple)):
        return dict(enumerate(cast("list[Any]", node)))
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        lengths = {len(value) for value in fields.values() if not _is_whole(value)}
        derived = {name: value for name, value in getattr(node, "__dict__", {}).items() if not _is_whole(value)}
        return {**fields, **{name: value for name, value in derived.items() if len(value) in lengths}}
    return None


def rebuild(node: Any, children: dict[Any, Any]) -> Any:
    """A container like `node` that holds other children under the same keys."""
    kind = cast("Callable[..., Any]", type(node))
    if isinstance(node, tuple):
        return kind(*children.values()) if hasattr(kind, "_fields") else kind(children.values())
    if isinstance(node, list):
        return kind(children.values())
    if kind is dict:
        return children
    if isinstance(node, (dict, UserDict)):
        rebuilt = copy.copy(cast("dict[Any, Any]", node))  # keeps a default factory, a tokenizer's encodings
        for key, child in children.items():
            rebuilt[key] = child
        return rebuilt
    if isinstance(node, Mapping):
        return kind(children)  # others take their items; a shallow copy might share them with the original
    rebuilt = copy.copy(node)
    for name, value in children.items():
        object.__setattr__(rebuilt, name, value)  # frozen dataclasses too
    return rebuilt


def is_column(node: Any, n: int) -> bool:
    """Whether a leaf or a list holds one entry for each of `n` rows."""
    if isinstance(node, (Tensor, np.ndarray)):
        return node.ndim > 0 and len(cast("Any", node)) == n
    return _is_list(node) and len(node) == n and _alike(node)


def _alike(node: Any) -> bool:
    """Whether the entries of a list could be one thing of each example: its tensors are of one kind."""
    arrays = [cast("Any", value) for value in node if isinstance(value, (Tensor, np.ndarray))]
    kinds = {(str(array.dtype), array.ndim) for array in arrays}
    return len(kinds) < 2


def _is_list(node: Any) -> bool:
    """Whether a node could be a list of one entry per example; the fields of a named tuple are no such thing."""
    return isinstance(node, (list, tuple)) and not hasattr(cast("Any", node), "_fields")


def _is_whole(node: Any) -> bool:
    """Whether a leaf belongs to the batch as a whole, whatever N is."""
    return not (isinstance(node, (Tensor, np.ndarray)) and node.ndim > 0)


def fits_rows(node: Any, n: int, strict: bool = False) -> bool:
    """Whether every entry of `node` is a column of `n` rows or belongs to the whole batch."""
    children = children_of(node)
    if children is None:
        return _is_whole(node) or is_column(node, n)
    if isinstance(node, (list, tuple)):
        return children_fit(node, n, strict) or is_column(node, n)
    return all(fits_rows(child, n, strict) for child in children.values())


def children_fit(node: Any, n: int, strict: bool = False) -> bool:
    """Whether a list or tuple is a container of columns rather than itself a column of `n` values.

    Args:
        node: the list or tuple.
        n: the number of examples.
        strict: whether a list of nothing but values is a column or nothing.
    """
    children = cast("list[Any]", node)
    if _is_list(node) and not any(True for _ in tensor_sizes(children)):
        if len(children) == n:
            return False  # N strings or numbers: one a row
        if strict and children and not any(_is_list(child) for child in children):
            return False
    return all(fits_rows(child, n, strict) for child in children)


def tensor_sizes(nodes: list[Any]) -> Iterator[int]:
    """First dimensions of all tensors and arrays that have one, in their order."""
    for node in nodes:
        children = children_of(node)
        if children is not None:
            yield from tensor_sizes(list(children.values()))
        elif not _is_whole(node):
            yield int(node.shape[0])


def packed_leaves(node: Any) -> Iterator[Any]:
    """Leaves that Lightning would move to the device though they are no tensors: many examples in one object."""
    children = children_of(node)
    if children is not None:
        for child in children.values():
            yield from packed_leaves(child)
    elif hasattr(node, "to") and not isinstance(node, (Tensor, np.ndarray)):
        yield node


def list_lengths(node: Any) -> Iterator[int]:
    """Lengths of all lists and tuples inside."""
    children = children_of(node)
    for child in () if children is None else children.values():
        if isinstance(child, (list, tuple)):
            yield len(cast("list[Any]", child))
        yield from list_lengths(child)


def describe(node: Any) -> str:
    """One line that shows the structure and the sizes."""
    children = children_of(node)
    if children is not None:
        inner = [f"{key}: {describe(child)}" for key, child in list(children.items())[:8]]
        return f"{type(node).__name__}({', '.join(inner)}{', ...' if len(children) > 8 else ''})"
    return f"{type(node).__name__}{tuple(node.shape)}" if hasattr(node, "shape") else type(node).__name__
