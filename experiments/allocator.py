"""What the C library does with memory that a program gives back."""

import ctypes
import sys

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT = {_ARENA_MAX: 1, _MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1}
VARIABLES = f"MALLOC_TRIM_THRESHOLD_={_KEPT[_TRIM_THRESHOLD]} MALLOC_MMAP_THRESHOLD_={_KEPT[_MMAP_THRESHOLD]}"
"""With which a program does so that can't call."""


def keep_memory() -> bool:
    """Lets this process keep memory for its next use, from now on.

    By default, glibc gives the tensors of a step back to the system, and gets them again page by page: what that costs
    is measured in docs/speed.md. All threads share what is kept, so that they are as fast as the main one.

    Returns:
        Whether it does: other C libraries can't be told.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of the library that this process is linked with
    return mallopt is not None and all(mallopt(name, value) for name, value in _KEPT.items())
