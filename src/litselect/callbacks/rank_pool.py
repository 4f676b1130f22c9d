"""Selection from the candidates of all ranks together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed

from litselect.selectors import Selection

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Share:
    """One rank's share of a common selection.

    Args:
        selection: the rank's own rows; padded with rows of weight 0 where it would have too few to make a step.
        factor: what its loss is multiplied by, so that the mean over ranks of their losses is the mean over all chosen
            rows: (rows of this rank) * (number of ranks) / (rows of all).
    """

    selection: Selection
    factor: float


def all_ready(ready: bool, device: torch.device) -> bool:
    """Whether every rank is. One collective, where `reduce_boolean_decision` of a strategy makes two."""
    least = torch.tensor(int(ready), device=device)
    distributed.all_reduce(least, distributed.ReduceOp.MIN)
    return bool(least)


def pool_scores(scores: Float[Tensor, " batch"]) -> tuple[Float[Tensor, " all"], list[int]]:
    """The scores of all ranks in their order, and how many each has. Two collectives; the host waits for them."""
    world = distributed.get_world_size()
    sizes = [scores.new_zeros(1, dtype=torch.int64) for _ in range(world)]
    distributed.all_gather(sizes, torch.tensor([scores.numel()], device=scores.device))
    counts = [int(size) for size in sizes]
    padded = scores.new_zeros(max(counts))
    padded[: scores.numel()] = scores
    gathered = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)]), counts


def select_share(
    select: Callable[[Tensor], Selection], scores: Float[Tensor, " batch"], rank: int, minimum: int
) -> Share | None:
    """Let every rank make the same selection from the candidates of all, and answer with this rank's rows.

    Args:
        select: the selection, which must draw the same on every rank.
        scores: ``[N]``, this rank's.
        rank: this rank.
        minimum: rows without which a step would crash.

    Returns:
        The share, or ``None`` where nothing was chosen on any rank.
    """
    everyone, counts = pool_scores(scores)
    chosen = select(everyone)
    if not len(chosen):
        return None
    start = sum(counts[:rank])
    mine = (chosen.indices >= start) & (chosen.indices < start + counts[rank])
    rows = chosen.indices[mine] - start
    weights = None if chosen.weights is None else chosen.weights[mine]
    factor = len(rows) * len(counts) / len(chosen)
    missing = min(minimum, counts[rank]) - len(rows)
    if missing > 0:
        others = torch.ones(counts[rank], dtype=torch.bool, device=rows.device).index_fill(0, rows, False).nonzero()
        padding = others.squeeze(1)[:missing]
        if len(rows):  # with no row of its own the factor, 0, is weight enough
            own = torch.ones(len(rows), device=rows.device) if weights is None else weights
            weights = torch.cat([own * (len(rows) + missing) / len(rows), own.new_zeros(missing)])
        else:
            weights = None
        rows = torch.cat([rows, padding])
    return Share(Selection.of(rows, weights), factor)
