"""Examples that judge, and are never trained."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils.data import DataLoader, IterableDataset, Subset


def carve(loader: Any, fraction: float, seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Split the data set of a loader by index.

    Args:
        loader: of a map-style data set.
        fraction: of the examples that are held out, in (0, 1); at least one.
        seed: decides which.

    Returns:
        Loaders of the rest and of the held-out examples, both shuffled, otherwise as `loader`.

    Raises:
        ValueError: if the loader is nothing of the kind, or nothing would be left.
    """
    dataset: Any = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            "A fraction is held out by index, which needs a torch DataLoader of a map-style data set, but got a "
            f"{type(cast('Any', loader)).__name__}. Pass a loader of held-out examples."
        )
    n = len(dataset)
    held = round(fraction * n)
    if not (0 < fraction < 1 and 1 <= held < n):
        raise ValueError(
            f"The fraction that is held out must leave examples on both sides, but got {fraction!r} of {n} examples. "
            "Pass for instance heldout_loader=0.05, or a loader."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return _of(loader, Subset(dataset, sorted(order[held:]))), _of(loader, Subset(dataset, sorted(order[:held])))


def _of(loader: DataLoader[Any], part: Subset[Any]) -> DataLoader[Any]:
    return DataLoader(
        part,
        batch_size=min(loader.batch_size or 1, len(part)),
        shuffle=True,
        drop_last=loader.drop_last,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
    )


def require_apart(heldout: Any, others: dict[str, Any]) -> None:
    """Refuse held-out examples that are used elsewhere.

    Args:
        heldout: their loader.
        others: loaders by what they are for.

    Raises:
        ValueError: if one of those is the same object, or has the same data set, or another part of it that overlaps.
    """
    for use, other in others.items():
        if other is heldout or _overlap(getattr(heldout, "dataset", None), getattr(other, "dataset", None)):
            raise ValueError(
                f"A rater is fitted to the held-out examples, so they must serve nothing else, but the held-out loader "
                f"delivers examples that are used for {use}, too. Hold out others: a part of the training data that "
                "is taken out of it (heldout=0.05)."
            )


def _overlap(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    a, b = (set(part.indices) if isinstance(part, Subset) else None for part in (one, other))
    base, other_base = (part.dataset if isinstance(part, Subset) else part for part in (one, other))
    return base is other_base and (a is None or b is None or bool(a & b))
