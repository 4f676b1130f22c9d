"""Whether a tensor still has its rows in the order of the examples after a torch function."""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor

MEANS: Final = frozenset({torch.mean, Tensor.mean})
SUMS: Final = frozenset({torch.sum, Tensor.sum})
_INDEXED: Final = ("index_add", "index_copy", "index_reduce", "index_put", "scatter", "scatter_add", "scatter_reduce")
_REORDER: Final = frozenset(
    getattr(owner, name)
    for owner in (torch, Tensor)
    for name in (
        *("t", "transpose", "permute", "movedim", "swapaxes", "swapdims", "adjoint", "flip", "roll", "sort"),
        *("masked_select", "index_select", "gather", "take", "take_along_dim", "repeat_interleave"),
        *(f"{name}{place}" for name in _INDEXED for place in ("", "_")),
        *("hstack", "vstack", "row_stack"),
    )
    if hasattr(owner, name)
) | {cast("Any", Tensor.T).__get__, cast("Any", Tensor.mT).__get__}
_AUGMENTED: Final = frozenset(
    {"__setitem__", *(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "div", "pow"))}
)
_JOINS: Final = frozenset({torch.cat, torch.concat, torch.concatenate, torch.stack})


def tensors_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Positional and keyword arguments, one level of lists opened (``torch.stack([a, b])``)."""
    found: list[Any] = []
    for arg in (*args, *kwargs.values()):
        found.extend(cast("list[Any]", arg)) if isinstance(arg, (list, tuple)) else found.append(arg)
    return found


def has_graph(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the result of a call can go backward: that of a metric can't, and has no part in the step's loss."""
    return torch.is_grad_enabled() and any(
        isinstance(arg, Tensor) and arg.requires_grad for arg in tensors_of(args, kwargs)
    )


def keeps_rows(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, n: int) -> bool:
    """Whether `result`, made by `func` of a tensor with `n` examples' rows, has them still, in that order."""
    if not isinstance(result, Tensor) or not result.is_floating_point() or result.ndim == 0:
        return False
    size = result.shape[0]
    if size == 0 or size % n or func in _REORDER:
        return False
    if func in (Tensor.__getitem__, Tensor.__setitem__):
        index: Any = args[1]
        parts = cast("tuple[Any, ...]", index if isinstance(index, tuple) else (index,))
        return size == args[0].shape[0] and all(part is Ellipsis or isinstance(part, (slice, int)) for part in parts)
    if func in _JOINS:  # along the rows, one tensor's come after the other's
        return kwargs.get("dim", args[1] if len(args) > 1 else 0) % result.ndim != 0
    if func in MEANS | SUMS:
        dim: Any = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
        dims = cast("list[Any]", dim if isinstance(dim, (list, tuple)) else [dim])
        ndim = cast("Any", args)[0].ndim if args else result.ndim + 1
        return not any(d is None or d % ndim == 0 for d in dims)
    return True


def written_to(func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """The tensor that a call changes in place, if it does."""
    name: str = getattr(func, "__name__", "")
    changes = name in _AUGMENTED or (name.endswith("_") and not name.endswith("__"))
    return args[0] if changes and args and isinstance(args[0], Tensor) else None


def is_total(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is a mean or a sum over everything."""
    return len(args) == 1 and not {"dim", "axis", "keepdim"} & kwargs.keys() and func in MEANS | SUMS
