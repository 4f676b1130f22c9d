"""Where the rows of a batch lie in a tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from litselect.scoring.forward_reuse.unsupported import Unsupported

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class RowLayout:
    """The rows lie along one dimension, which may hold others beside them: its sizes multiply to that of the dimension.

    Args:
        dim: which dimension.
        outer: how many times all rows are repeated: T for a flattened ``[T, B]``.
        inner: how many entries of a row are neighbours: T for a flattened ``[B, T]``.
    """

    dim: int
    outer: int = 1
    inner: int = 1

    def places(self, rows: Int[Tensor, " kept"], n: int) -> Int[Tensor, " places"]:
        """Where `rows` of `n` lie along the dimension."""
        if self.outer == self.inner == 1:
            return rows
        outer = torch.arange(self.outer, device=rows.device).reshape(-1, 1, 1) * (n * self.inner)
        inner = torch.arange(self.inner, device=rows.device)
        return (outer + rows.reshape(1, -1, 1) * self.inner + inner).flatten()


def take_places(tensor: Tensor, dim: int, places: Int[Tensor, " places"]) -> Tensor:
    """Some entries along one dimension, in the memory format of `tensor`."""
    if tensor.is_contiguous():
        return tensor.index_select(dim, places)
    order = sorted(range(tensor.ndim), key=lambda d: (-tensor.stride(d), d))  # outermost first
    taken = tensor.permute(order).index_select(order.index(dim), places)
    return taken.permute([order.index(d) for d in range(tensor.ndim)])


@dataclass(frozen=True)
class Sighting:
    """One tensor of the forward, as four runs saw it.

    Args:
        shape: with N rows.
        one: with k rows.
        other: with k rows, one of which was replaced.
    """

    shape: tuple[int, ...]
    one: Tensor
    other: Tensor


def find_layouts(sightings: list[Sighting], n: int, k: int, replaced: int) -> list[RowLayout | Unsupported | None]:
    """Where the rows lie in each tensor: ``None`` in those that have none.

    The dimension is the one whose size differs between N and k rows. Where it holds more than the rows, what changes
    when one row is replaced shows how; a tensor in which nothing changes (a mask of dropout) is taken to be like the
    others of its kind.

    Args:
        sightings: the tensors.
        n: N.
        k: k, which differs from N.
        replaced: which of the k rows was replaced.
    """
    found: list[RowLayout | Unsupported | None] = []
    unsettled: list[tuple[int, int, int]] = []
    known: Counter[tuple[int, int]] = Counter()
    for i, seen in enumerate(sightings):
        sizes = _batch_size(seen, n, k)
        if not isinstance(sizes, tuple):
            found.append(sizes)
            continue
        dim, factor = sizes
        split = (1, 1) if factor == 1 else _split(seen, dim, factor, k, replaced)
        found.append(None if split is None else RowLayout(dim, *split))
        if split is None:
            unsettled.append((i, dim, factor))
        elif factor > 1:
            known[split] += 1
    for i, dim, factor in unsettled:
        alike = [split for split, _ in known.most_common() if split[0] * split[1] == factor]
        found[i] = RowLayout(dim, *(alike[0] if alike else (1, factor)))
    return found


def _batch_size(seen: Sighting, n: int, k: int) -> tuple[int, int] | Unsupported | None:
    """The dimension that holds the rows, and how many entries it has for each."""
    shape, small = seen.shape, tuple(seen.one.shape)
    if shape == small:
        return None
    differ = [d for d, (a, b) in enumerate(zip(shape, small, strict=False)) if a != b]
    if len(shape) == len(small) and len(differ) == 1:
        a, b = shape[differ[0]], small[differ[0]]
        if a % n == 0 and b % k == 0 and a // n == b // k:
            return differ[0], a // n
    return Unsupported(f"a tensor of the forward has shape {shape} with {n} rows, but {small} with {k}")


def _split(seen: Sighting, dim: int, factor: int, k: int, replaced: int) -> tuple[int, int] | None:
    """How `factor` divides into what lies around and within the rows; ``None`` where nothing tells."""
    if seen.one.is_floating_point() or seen.one.is_complex():
        change = (seen.one.detach() - seen.other.detach()).abs().double()
    else:
        change = (seen.one != seen.other).double()
    change = change.movedim(dim, 0).reshape(change.shape[dim], -1).sum(1).nan_to_num()
    inside = {
        inner: float(change.reshape(factor // inner, k, inner)[:, replaced].sum())
        for inner in range(1, factor + 1)
        if factor % inner == 0
    }
    most = max(inside.values())
    best = [inner for inner, value in inside.items() if value == most]
    return (factor // best[0], best[0]) if len(best) == 1 else None
