"""What the C library does with memory that a program gives back."""

import ctypes
import sys

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT = {_ARENA_MAX: 1, _MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1}


def keep_memory() -> bool:
    """Lets this process keep memory for its next use, from now on.

    By default, glibc gives the tensors of a step back to the system, and gets them again page by page: a step of a
    small ResNet then takes a quarter longer, and a scoring pass in full precision two or three times as long, as
    docs/speed.md shows. `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` do the same for a program of one's own.
    All threads share what is kept, so that they are as fast as the main one.

    Returns:
        Whether it does: other C libraries can't be told.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of the library that this process is linked with
    return mallopt is not None and all(mallopt(name, value) for name, value in _KEPT.items())
