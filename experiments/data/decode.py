"""Image files to one uint8 tensor."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.errors import UsageError


def decode(files: list[Path], size: int | None) -> Tensor:
    """Decodes `files` in parallel: threads suffice, as the decoders release the interpreter lock.

    Args:
        files: at least one image file of any format that Pillow reads.
        size: side in pixels to resize to, or None to take the images as they are.

    Returns:
        `[N, 3, H, W]` uint8, row for row as `files`.

    Raises:
        UsageError: a file is not an image, or without `size` the images are not squares of one size.
    """
    first = _pixels(files[0], size)
    everything = np.empty((len(files), *first.shape), dtype=np.uint8)
    if first.shape[0] != first.shape[1]:
        raise UsageError(f"images must be square, received {first.shape[:2]} in {files[0]}; set data.size=32, say")

    def fill(row: int) -> None:
        pixels = _pixels(files[row], size)
        if pixels.shape != first.shape:
            raise UsageError(
                f"images must have one size, received {pixels.shape[:2]} in {files[row]} and {first.shape[:2]} in "
                f"{files[0]}; set data.size=32, say"
            )
        everything[row] = pixels

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(fill, range(len(files)), chunksize=256):
            pass  # results are in `everything`; iterating raises what a thread raised
    return torch.from_numpy(everything).permute(0, 3, 1, 2).contiguous()


def _pixels(file: Path, size: int | None) -> np.ndarray:
    """One image as `[H, W, 3]` uint8."""
    try:
        with Image.open(file) as image:
            colour = image.convert("RGB")
    except OSError as error:
        raise UsageError(f"every file must be a readable image, received {file}: {error}; remove it") from error
    if size is not None:
        colour = colour.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(colour)
