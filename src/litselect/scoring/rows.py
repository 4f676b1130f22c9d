"""Rows of a batch of any structure: count them, take some, put several batches' rows together.

A batch is a nest of dicts, lists, tuples, named tuples and dataclasses. Its *columns* hold one entry per example: a
tensor or array whose first dimension is N, or a list of N Python values. Everything else (0-dim tensors, numbers,
strings, ``None``) belongs to the batch as a whole and is handed on as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from litselect.scoring.batch_structure import (
    children_fit,
    children_of,
    describe,
    fits_rows,
    is_column,
    is_flat,
    list_lengths,
    packed_leaves,
    rebuild,
    tensor_sizes,
)

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
    if is_flat(batch) and len(rows := {tensor.shape[0] for tensor in batch}) == 1:
        return rows.pop()
    if (packed := next(packed_leaves(batch), None)) is not None:
        raise ValueError(
            f"Selection takes rows out of a batch, but a {type(packed).__name__} was received, of which rows can't be "
            f"taken. {_PACK_LATE}"
        )
    sizes = list(dict.fromkeys(tensor_sizes([batch])))
    if not sizes:
        raise ValueError(
            "Selection takes rows out of a batch, so a batch must hold tensors with one row per example, but a batch "
            f"of type {type(batch).__name__} was received in which none was found. Let the collate function return "
            "tensors in dicts, lists, tuples, named tuples or dataclasses."
        )
    # Tensors are trusted first; a list of images of unequal size tells N by its length. A list of values that would be
    # no column is believed to belong to the whole batch only if there is no other way.
    candidates = dict.fromkeys((*sizes, *list_lengths(batch)))
    candidates = sorted(candidates, key=lambda n: n != expected)
    for strict in (True, False):
        for n in candidates:
            fits = children_fit(batch, n, strict) if isinstance(batch, (list, tuple)) else fits_rows(batch, n, strict)
            if fits:
                return n
    raise ValueError(
        "All tensors and lists of a batch must have one entry per example, but entries of "
        f"{', '.join(map(str, sizes))} rows were received: {describe(batch)}. Pass what belongs to the whole batch "
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
        quick = column.layout != torch.strided or column.is_contiguous()  # and what is sparse can't be indexed
        return column.index_select(0, indices) if quick else column[indices]
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
    if is_flat(node) and all(tensor.shape[0] == n for tensor in node):
        return type(node)([function(tensor) for tensor in node])
    children = children_of(node)
    if children is not None and (not isinstance(node, (list, tuple)) or children_fit(node, n)):
        return rebuild(node, {key: map_columns(child, n, function, constant) for key, child in children.items()})
    if is_column(node, n):
        return function(node)
    constant(node)
    return cast("Any", node)
