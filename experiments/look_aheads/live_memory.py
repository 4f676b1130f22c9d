"""How many bytes of tensors are alive at once."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the storages that operators make inside of it, from their birth to their end.

    It stands below autograd, so that what is saved for a backward pass counts, tangents of forward mode too. What an
    operator uses only while it runs does not.

    Attributes:
        live: bytes at present.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operator, and notes the storages that come out of it but did not go in."""
        kwargs = kwargs or {}
        before = {storage._cdata for storage in _storages((args, kwargs))}
        made = func(*args, **kwargs)
        for storage in _storages(made):
            if storage._cdata not in before and storage._cdata not in self._known:
                self._born(storage)
        return made

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._ended, key, size).atexit = False

    def _ended(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def peak(call: Callable[[], object]) -> int:
    """The most bytes that a call has alive at once, beyond what there was before."""
    with LiveMemory() as memory:
        call()
    return memory.peak
