"""One real forward of k rows, from which a replay is planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from litselect.scoring.forward_reuse.boundary import Boundary
from litselect.scoring.forward_reuse.op_traits import traits_of
from litselect.scoring.forward_reuse.unsupported import Reached, Unsupported

Edges = Callable[[Callable[[], None]], Any]
"""Given a function, answers with a context in which it is called at what else must not be replayed: logs, metrics."""


@dataclass(frozen=True)
class Result:
    """One result of an operation in a replay.

    Args:
        make: makes it, uninitialised; ``None`` where it is no new tensor.
        source: the argument that it is (by place or name), for an operation in place.
        constant: it, where it is no tensor.
    """

    make: Callable[[], Tensor] | None = None
    source: int | str | None = None
    constant: Any = None


class Probe(TorchDispatchMode):
    """Writes down what every operation returns, and keeps it all.

    Cost: the memory of all intermediate results of k rows.

    Attributes:
        ops: the operations.
        results: of each operation, its results; ``None`` where it only looks at memory.
        single: whether each operation returns one tensor rather than several.
        held: the tensors that each operation returned.
        saved: what autograd saved.
    """

    def __init__(self) -> None:
        cast("Any", super()).__init__()
        self.ops: list[Any] = []
        self.results: list[list[Result] | None] = []
        self.single: list[bool] = []
        self.held: list[list[Any]] = []
        self.saved: list[Tensor] = []
        self._frozen = False

    @classmethod
    def run(cls, step: Callable[[Any], Any], batch: Any, edges: Edges) -> Probe:
        """Run `step` on `batch` up to its first loss."""
        probe = cls()
        try:
            hooks = torch.autograd.graph.saved_tensors_hooks(probe._pack, probe._unpack)
            with probe, hooks, edges(probe._reach), Boundary(probe._reach):
                step(batch)
        except Reached:
            pass
        return probe

    def _reach(self) -> None:
        self._frozen = True
        raise Reached

    def _pack(self, tensor: Tensor) -> Any:
        self.saved.append(tensor)
        return len(self.saved) - 1

    def _unpack(self, packed: Any) -> Tensor:
        return self.saved[packed] if type(packed) is int else packed

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._frozen:
            several = isinstance(result, (tuple, list))
            items: list[Any] = list(cast("Any", result)) if several else [result]
            self.ops.append(func)
            self.single.append(not several)
            # Not the tensors themselves: what a factory returns is copied where someone else holds it.
            self.held.append([item.data if isinstance(item, Tensor) else item for item in items])
            traits = traits_of(func)
            self.results.append(None if traits.is_view else [_describe(item, args, kwargs, traits) for item in items])
        return result

    def free(self) -> None:
        """Forget all tensors. Their graph holds this object, so that they would hold each other for ever."""
        self.saved, self.held = [], []

    def fresh(self) -> list[list[bool]]:
        """Which results of each operation lie in memory that the forward itself has made."""
        made = {
            storage_of(item)
            for found, items in zip(self.results, self.held, strict=True)
            for result, item in zip(found or [], items, strict=False)
            if result.make is not None
        }
        return [[isinstance(item, Tensor) and storage_of(item) in made for item in items] for items in self.held]


def _describe(item: Any, args: tuple[Any, ...], kwargs: dict[str, Any], traits: Any) -> Result:
    if not isinstance(item, Tensor):
        return Result(constant=item)
    for place, arg in (*enumerate(args), *kwargs.items()):
        if arg is item:
            return Result(source=place)
    if type(item) not in (Tensor, nn.Parameter) or item.layout is not torch.strided or item.is_quantized:
        raise Unsupported(f"{traits.name} returns a tensor of a special kind ({type(item).__name__}, {item.layout})")
    shape, strides, dtype, device = tuple(item.shape), item.stride(), item.dtype, item.device
    return Result(make=lambda: torch.empty_strided(shape, strides, dtype=dtype, device=device))


def storage_of(tensor: Tensor) -> int:
    """What tells the memory of one tensor from that of another, while both are held."""
    return cast("Any", tensor.untyped_storage())._cdata
