"""Examples that judge, and are never trained."""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset

_AS_BEFORE: Final = (
    "drop_last", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
    "prefetch_factor", "persistent_workers",
)  # fmt: skip


def carve(loader: Any, fraction: float, seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Split the data set of a loader by index.

    Args:
        loader: of a map-style data set.
        fraction: of the examples that are held out, in (0, 1); at least one.
        seed: decides which.

    Returns:
        Loaders of the rest and of the held-out examples, both shuffled, otherwise as `loader`.

    Raises:
        ValueError: if the loader is nothing of the kind, has a sampler of its own, or nothing would be left.
    """
    dataset: Any = getattr(loader, "dataset", None)
    plain = _is_loader(loader) and type(loader.sampler) in (RandomSampler, SequentialSampler) and loader.batch_size
    if not plain or not hasattr(dataset, "__len__"):
        raise ValueError(
            "A fraction is held out by index, which needs a torch DataLoader of a map-style data set with a batch size "
            f"and no sampler of its own, but got a {type(loader).__name__} with sampler "
            f"{type(getattr(loader, 'sampler', None)).__name__} and batch size {getattr(loader, 'batch_size', None)}. "
            "Pass loaders of two parts of the data."
        )
    n = len(dataset)
    held = round(fraction * n)
    if not (0 < fraction < 1 and 1 <= held < n):
        raise ValueError(
            f"The fraction that is held out must leave examples on both sides, but got {fraction!r} of {n} examples. "
            "Pass for instance 0.05, or a loader."
        )
    order = cast("list[int]", cast("Any", torch.randperm(n, generator=torch.Generator().manual_seed(seed))).tolist())
    return _of(loader, Subset(dataset, sorted(order[held:]))), _of(loader, Subset(dataset, sorted(order[:held])))


def _of(loader: Any, part: Subset[Any]) -> DataLoader[Any]:
    return DataLoader(
        part,
        batch_size=min(loader.batch_size, len(part)),
        shuffle=True,
        **{name: getattr(loader, name) for name in _AS_BEFORE},
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
                "is taken out of it by index (pass a fraction, such as 0.05, in place of a loader)."
            )


def _overlap(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    (base, a), (other_base, b) = _rows(one), _rows(other)
    return base is other_base and (a is None or b is None or bool(set(a) & set(b)))


def _rows(dataset: Any) -> tuple[Any, list[int] | None]:
    """The data set behind subsets of subsets, and which of its examples; None for all."""
    if not isinstance(dataset, Subset):
        return dataset, None
    chosen: list[int] = [int(i) for i in cast("Any", dataset).indices]  # of a tensor: its entries are never equal
    base, rows = _rows(cast("Any", dataset).dataset)
    return base, chosen if rows is None else [rows[i] for i in chosen]


def _is_loader(loader: Any) -> bool:
    return isinstance(loader, DataLoader)
