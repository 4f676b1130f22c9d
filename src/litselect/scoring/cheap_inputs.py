"""Images that take less time to score."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import functional as F

from litselect.scoring.rows import columns_of, map_columns


def cheapened(batch: Any, n: int, resolution: float | None, memory_format: torch.memory_format | None) -> Any:
    """`batch` with its images smaller, or laid out otherwise; itself where neither is asked for.

    Args:
        batch: N examples, among them images ``[N, C, H, W]``, floating-point or uint8.
        n: N.
        resolution: what height and width are multiplied by; a pixel is then the mean of those that it stands for.
        memory_format: of the images.

    Raises:
        ValueError: if there is no image, or, to be made smaller, more than one: an image to be predicted must not be.
    """
    if resolution is None and memory_format is None:
        return batch
    images = [column for column in columns_of(batch, n) if _is_image(column)]
    if not images or (resolution is not None and len(images) > 1):
        option = f"memory_format={memory_format}" if resolution is None else f"resolution={resolution}"
        shapes = ", ".join(str(tuple(column.shape)) for column in columns_of(batch, n) if isinstance(column, Tensor))
        raise ValueError(
            f"ScoringPass({option}) is for batches with {'one tensor' if resolution is not None else 'tensors'} of "
            f"images [N, C, H, W], but tensors of {shapes or 'no'} shape were received, {len(images)} of them images. "
            "Leave the option out; precision='bf16' works for any input."
        )
    return map_columns(batch, n, lambda column: _cheap(column, resolution, memory_format))


def _is_image(column: Any) -> TypeGuard[Tensor]:
    return (
        isinstance(column, Tensor)
        and column.ndim == 4
        and (column.is_floating_point() or column.dtype == torch.uint8)
    )  # fmt: skip


def _cheap(column: Any, resolution: float | None, memory_format: torch.memory_format | None) -> Any:
    if not _is_image(column):
        return column
    if resolution is not None:
        height, width = (max(1, round(size * resolution)) for size in column.shape[2:])
        if column.dtype == torch.uint8:
            column = F.interpolate(column.float(), (height, width), mode="area").round_().to(torch.uint8)
        else:
            column = F.interpolate(column, (height, width), mode="area")
    return column if memory_format is None else column.contiguous(memory_format=memory_format)
