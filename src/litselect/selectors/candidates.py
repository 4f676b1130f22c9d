"""How many candidates there are, by the scores that are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

_FLAT: Final = ("losses", "ids", "ratings", "percentiles", "confidences", "ages")  # one number a candidate


def count_candidates(given: dict[str, Tensor], candidates: int | None) -> int:
    """N, the number of rows that all scores have.

    Args:
        given: scores by name.
        candidates: N, where it is told.

    Raises:
        ValueError: if scores have other shapes than they should, disagree about N, or N is 0.
    """
    for name, tensor in given.items():
        flat = name in _FLAT
        if tensor.ndim == 0 or (flat and tensor.ndim > 1):
            raise ValueError(
                f"Expected {name} of shape [N{'' if flat else ', ...'}], but got {tuple(tensor.shape)}. "
                + ("Pass one number per candidate, before any mean." if flat else "Pass one row per candidate.")
            )
    sizes = {name: tensor.shape[0] for name, tensor in given.items()}
    if candidates is not None:
        sizes["candidates"] = candidates
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"All scores of a batch must have one row per candidate, but got {sizes or 'no tensor at all'}. "
            "Pass tensors of one length, or candidates=N to a selector that looks at nothing."
        )
    n = next(iter(sizes.values()))
    if n < 1:
        raise ValueError(f"Expected at least one candidate, but got an empty batch (N={n}). Skip it before selection.")
    return n
