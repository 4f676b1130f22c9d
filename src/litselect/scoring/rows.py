"""Rows of a batch of any structure: count them, take some, put several batches' rows together.

A batch is a nest of dicts, lists, tuples, named tuples and dataclasses. Its *columns* hold one entry per example: a
tensor or array whose first dimension is N, or a list of N Python values. Everything else (0-dim tensors, numbers,
strings, ``None``) belongs to the batch as a whole and is handed on as it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int

_PACK_LATE = (
    "Let the collate function return them as a list, one entry per example, beside a tensor with one row per example, "
    "and pack them in training_step."
)

Column = Any  # Tensor[N, ...] | ndarray[N, ...] | list of N


def count_rows(batch: Any, expected: int = 0) -> int:
    """N, the number of examples in `batch`.

    Args:
        batch: any structure.
        expected: the batch size that is declared, if any: where the structure can be read in two ways, it decides.

    Raises:
        ValueError: if `batch` has no column, columns of unequal length, or something that moves to a device but has no
            rows (the batch of a graph library).
    """
    if _is_flat(batch) and len(rows := {tensor.shape[0] for tensor in batch}) == 1:
        return rows.pop()
    if (packed := next(_packed(batch), None)) is not None:
        raise ValueError(
            f"Selection takes rows out of a batch, but a {type(packed).__name__} was received, of which rows can't be "
            f"taken. {_PACK_LATE}"
        )
    sizes = list(dict.fromkeys(_tensor_sizes([batch])))
    if not sizes:
        raise ValueError(
            "Selection takes rows out of a batch, so a batch must hold tensors with one row per example, but a batch "
            f"of type {type(batch).__name__} was received in which none was found. Let the collate function return "
            "tensors in dicts, lists, tuples, named tuples or dataclasses."
        )
    # Tensors are trusted first; a list of images of unequal size tells N by its length. A list of values that would be
    # no column is believed to belong to the whole batch only if there is no other way.
    candidates = dict.fromkeys((*sizes, *_list_lengths(batch)))
    candidates = sorted(candidates, key=lambda n: n != expected)
    for strict in (True, False):
        for n in candidates:
            fits = _fits_children(batch, n, strict) if isinstance(batch, (list, tuple)) else _fits(batch, n, strict)
            if fits:
                return n
    raise ValueError(
        "All tensors and lists of a batch must have one entry per example, but entries of "
        f"{', '.join(map(str, sizes))} rows were received: {_describe(batch)}. Pass what belongs to the whole batch "
        "as a 0-dim tensor, a number or a string, or give it one row per example. If examples are packed into one "
        f"object, as graphs are: {_PACK_LATE}"
    )


def take_rows(batch: Any, indices: Int[Tensor, " kept"], n: int | None = None) -> Any:
    """A new batch of the same structure that holds the rows `indices`, in that order. `batch` is left as it is.

    >>> take_rows({"x": torch.arange(4), "name": list("abcd"), "scale": 2.0}, torch.tensor([1, 3]))
    {'x': tensor([1, 3]), 'name': ['b', 'd'], 'scale': 2.0}
    """
    n = count_rows(batch) if n is None else n
    return map_columns(batch, n, lambda column: take(column, indices))


def take(column: Column, indices: Int[Tensor, " kept"]) -> Column:
    """The entries `indices` of one column."""
    if isinstance(column, Tensor):
        # To the host it must block: indices would be read before they have arrived.
        indices = indices.to(column.device, non_blocking=column.device.type != "cpu")
        # Indexing keeps the layout of images (channels_last), index_select takes half the time.
        return column.index_select(0, indices) if column.is_contiguous() else column[indices]
    if isinstance(column, np.ndarray):
        return cast("Column", column[indices.cpu().numpy()])
    return type(column)(column[i] for i in cast("Any", indices).tolist())


def join(columns: list[Column]) -> Column:
    """Several pieces of one column, put together.

    Raises:
        ValueError: if they are tensors whose rows differ in shape.
    """
    first = columns[0]
    if isinstance(first, Tensor):
        if len({piece.shape[1:] for piece in columns}) > 1:
            shapes = ", ".join(str(tuple(piece.shape)) for piece in columns)
            raise ValueError(
                f"Rows of several batches can be put together only if they have one shape, but got {shapes}. "
                "Pad to a fixed length in the collate function, or train without refill."
            )
        return torch.cat(columns)
    if isinstance(first, np.ndarray):
        return cast("Column", np.concatenate(columns))
    kind = cast("Callable[..., Any]", type(first))
    return kind(value for piece in columns for value in piece)


def columns_of(batch: Any, n: int) -> list[Column]:
    """The columns of `batch`, in a fixed order: the one in which `with_columns` puts others in their place."""
    found: list[Column] = []
    map_columns(batch, n, lambda column: found.append(column))
    return found


def with_columns(batch: Any, n: int, columns: list[Column]) -> Any:
    """`batch` with its columns replaced."""
    replacements = iter(columns)
    return map_columns(batch, n, lambda _: next(replacements))


def constants_of(batch: Any, n: int) -> list[Any]:
    """What belongs to the batch as a whole: all leaves that are no columns."""
    found: list[Any] = []
    map_columns(batch, n, lambda column: column, found.append)
    return found


def map_columns(
    node: Any,
    n: int,
    function: Callable[[Column], Column],
    constant: Callable[[Any], object] = lambda leaf: None,
) -> Any:
    """Rebuild `node` with `function` applied to each column of `n` rows (and call `constant` on other leaves)."""
    if _is_flat(node) and all(tensor.shape[0] == n for tensor in node):
        return type(node)([function(tensor) for tensor in node])
    children = _children(node)
    if children is not None and (not isinstance(node, (list, tuple)) or _fits_children(node, n)):
        return _rebuild(node, {key: map_columns(child, n, function, constant) for key, child in children.items()})
    if _is_column(node, n):
        return function(node)
    constant(node)
    return cast("Any", node)


# ---------------------------------------------------------------------- structure


def _is_flat(node: Any) -> bool:
    """Whether a batch is a plain list or tuple of tensors with rows, as nearly all are: the short way for those."""
    return type(node) in (list, tuple) and bool(node) and all(type(leaf) is Tensor and leaf.ndim > 0 for leaf in node)


def _children(node: Any) -> dict[Any, Any] | None:
    """The children of a container by key, or None for a leaf."""
    if isinstance(node, Mapping):
        return dict(cast("Mapping[Any, Any]", node))
    if isinstance(node, (list, tuple)):
        return dict(enumerate(cast("list[Any]", node)))
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    return None


def _rebuild(node: Any, children: dict[Any, Any]) -> Any:
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


def _is_column(node: Any, n: int) -> bool:
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


def _fits(node: Any, n: int, strict: bool = False) -> bool:
    """Whether every entry of `node` is a column of `n` rows or belongs to the whole batch."""
    children = _children(node)
    if children is None:
        return _is_whole(node) or _is_column(node, n)
    if isinstance(node, (list, tuple)):
        return _fits_children(node, n, strict) or _is_column(node, n)
    return all(_fits(child, n, strict) for child in children.values())


def _fits_children(node: Any, n: int, strict: bool = False) -> bool:
    """Whether a list or tuple is a container of columns rather than itself a column of `n` values.

    Args:
        node: the list or tuple.
        n: the number of examples.
        strict: whether a list of nothing but values is a column or nothing.
    """
    children = cast("list[Any]", node)
    if _is_list(node) and not any(True for _ in _tensor_sizes(children)):
        if len(children) == n:
            return False  # N strings or numbers: one a row
        if strict and children and not any(_is_list(child) for child in children):
            return False
    return all(_fits(child, n, strict) for child in children)


def _tensor_sizes(nodes: list[Any]) -> Iterator[int]:
    for node in nodes:
        children = _children(node)
        if children is not None:
            yield from _tensor_sizes(list(children.values()))
        elif not _is_whole(node):
            yield int(node.shape[0])


def _packed(node: Any) -> Iterator[Any]:
    """Leaves that Lightning would move to the device though they are no tensors: many examples in one object."""
    children = _children(node)
    if children is not None:
        for child in children.values():
            yield from _packed(child)
    elif hasattr(node, "to") and not isinstance(node, (Tensor, np.ndarray)):
        yield node


def _list_lengths(node: Any) -> Iterator[int]:
    children = _children(node)
    for child in () if children is None else children.values():
        if isinstance(child, (list, tuple)):
            yield len(cast("list[Any]", child))
        yield from _list_lengths(child)


def _describe(node: Any) -> str:
    """One line that shows the structure and the sizes."""
    children = _children(node)
    if children is not None:
        inner = [f"{key}: {_describe(child)}" for key, child in list(children.items())[:8]]
        return f"{type(node).__name__}({', '.join(inner)}{', ...' if len(children) > 8 else ''})"
    return f"{type(node).__name__}{tuple(node.shape)}" if hasattr(node, "shape") else type(node).__name__
