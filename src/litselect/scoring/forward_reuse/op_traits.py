"""What re-use must know of an operation."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_READS = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
_INDEXING = frozenset({"aten::index", "aten::_unsafe_index"})  # of dynamic shape by a boolean mask alone
_BATCH_NORMS = frozenset(
    {
        *("aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm"),
        *("aten::_batch_norm_with_update", "aten::_native_batch_norm_legit"),
    }
)


@dataclass(frozen=True)
class OpTraits:
    """Facts about one operation.

    Args:
        name: with its namespace, without its overload.
        is_view: whether it only changes how memory is looked at, so that a replay may run it.
        is_mutable: whether it writes into an argument.
        is_random: whether it draws, and draws an element for each element of its result.
        reads: whether its result, or the shape of that, depends on values.
        dropout: the place of a fused attention's dropout among its arguments.
        is_batch_norm: whether it returns the statistics of a batch as its second and third result.
    """

    name: str
    is_view: bool
    is_mutable: bool
    is_random: bool
    reads: bool
    dropout: int | None
    is_batch_norm: bool

    @property
    def is_plain(self) -> bool:
        """Whether nothing has to be looked at when it is called."""
        return not (self.is_mutable or self.is_random or self.reads or self.dropout is not None)


@functools.cache
def traits_of(func: Any) -> OpTraits:
    """The facts about `func`, an ``OpOverload``."""
    schema = func._schema
    names = [argument.name for argument in schema.arguments]
    dropout = names.index("dropout_p") if "dropout_p" in names else None
    return OpTraits(
        schema.name,
        func.is_view or torch.Tag.inplace_view in func.tags,
        schema.is_mutable,
        torch.Tag.nondeterministic_seeded in func.tags and dropout is None,
        not _READS.isdisjoint(func.tags),
        dropout,
        schema.name in _BATCH_NORMS,
    )


def refusal(traits: OpTraits, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Why a forward that makes this call can't be re-used, if it can't."""
    if traits.reads and not (traits.name in _INDEXING and not _is_masked(args[1])):
        return f"{traits.name} makes the forward depend on values: a branch, a loop or a shape"
    if traits.dropout is not None:
        rate = kwargs.get("dropout_p", args[traits.dropout] if len(args) > traits.dropout else 0.0)
        if rate:
            return f"{traits.name} draws its dropout (p={rate}) again in backward, in a pattern that rows do not keep"
    return None


def _is_masked(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
