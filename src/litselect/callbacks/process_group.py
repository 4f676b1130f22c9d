"""This process among those that train together; by itself where there is no process group."""

from torch import distributed


def rank() -> int:
    """The place of this process, from 0."""
    return distributed.get_rank() if _exists() else 0


def world_size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if _exists() else 1


def _exists() -> bool:
    return distributed.is_available() and distributed.is_initialized()
