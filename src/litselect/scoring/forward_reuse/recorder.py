"""A forward that is written down while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from litselect.scoring.forward_reuse.op_traits import refusal, traits_of
from litselect.scoring.no_trace import streams

NO_LOSS = "training_step calls no loss function of torch.nn.functional"
Place = tuple[int, int]
"""Which result of which operation."""


class Recorder(TorchDispatchMode):
    """Writes down operations and what autograd saves, in the order of calls, until the first loss.

    Cost: a call of Python for each operation.

    Args:
        module: the network, whose buffers are looked at.

    Attributes:
        ops: the operations.
        saved: what autograd saved.
        alive: results that were still held at the first loss.
        frozen: whether that has been reached.
        failure: why this forward can't be re-used.
    """

    def __init__(self, module: nn.Module) -> None:
        cast("Any", super()).__init__()
        self.ops: list[Any] = []
        self.saved: list[Tensor] = []
        self.alive: dict[Place, Tensor] = {}
        self.frozen = False
        self.failure: str | None = None
        self.restore_streams: list[Callable[[], None]] = []
        self._results: list[Any] = []
        self._targets: list[Tensor] = []
        self._generators: list[torch.Generator] = []
        self._module = module
        self._buffers = [(buffer, buffer._version) for buffer in module.buffers()]
        self._state: list[tuple[Tensor, Tensor]] = []
        self._versions = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch's guard against it takes longer than all of ours

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result: Any = func(*args, **kwargs)
        if self.frozen:
            return result
        self.ops.append(func)
        kind = cast("Any", type(result))
        if kind is Tensor:
            self._results.append(ref(result))
        elif kind in (tuple, list):
            self._results.append([ref(item) if isinstance(item, Tensor) else None for item in result])
        else:
            self._results.append(None)
            if isinstance(result, Tensor) and kind is not nn.Parameter:
                self.fail(f"{kind.__name__} is a tensor of a special kind")
        traits = traits_of(func)
        if not traits.is_plain:
            self._look(func, args, kwargs)
        return result

    def _look(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        traits = traits_of(func)
        if (reason := refusal(traits, args, kwargs)) is not None:
            self.fail(reason)
        if traits.is_mutable and args and isinstance(args[0], Tensor):
            self._targets.append(args[0])
        if traits.is_random and kwargs.get("generator") is not None:
            self._generators.append(kwargs["generator"])

    def pack(self, tensor: Tensor) -> Any:
        """In place of what autograd saves: its number."""
        if self.frozen:
            return tensor.detach()  # itself it would hold its own graph, and never be freed
        self.saved.append(tensor)
        return len(self.saved) - 1

    def unpack(self, packed: Any) -> Tensor:
        """The inverse of `pack`."""
        return self.saved[packed] if type(packed) is int else packed

    def made(self, tensor: Any) -> bool:
        """Whether an operation that was recorded made `tensor`."""
        return any(item() is tensor for item in _flat(self._results) if item is not None)

    def fail(self, reason: str) -> None:
        """Give up recording; the step itself goes on."""
        self.failure = self.failure or reason
        self.frozen = True
        self.free()

    def freeze(self) -> None:
        """The first loss is reached: keep what is held, and what the forward changed."""
        if self.frozen:
            return
        self.frozen = True
        if not self.saved:
            self.fail("training_step comes to its first loss, log or metric before autograd has saved anything")
            return
        for i, found in enumerate(self._results):
            for j, item in enumerate(_items(found)):
                tensor = None if item is None else item()
                if tensor is not None:
                    self.alive[i, j] = tensor
        self._keep_state()
        self._results, self._targets = [], []
        self._versions = self._sum_of_versions()

    def _keep_state(self) -> None:
        """What the forward changed beside its results: buffers, and the random streams."""
        made = {id(tensor) for tensor in self.alive.values()}
        targets = [tensor for tensor in self._targets if id(tensor) not in made]
        with torch.no_grad():
            for buffer, version in self._buffers:
                if buffer._version != version or _is_statistic(buffer):
                    targets.append(buffer)
            self._state = [(tensor, tensor.detach().clone()) for tensor in {id(t): t for t in targets}.values()]
        self.restore_streams = streams(self._module)
        for generator in self._generators:
            self.restore_streams.append(_setter(generator))

    def end(self) -> None:
        """The step is over."""
        if self.failure is None and not self.frozen:
            self.fail(NO_LOSS)
        elif self.failure is None and self._versions != self._sum_of_versions():
            self.fail("training_step changes in place, after its loss, what the forward computed")

    def free(self) -> None:
        """Forget all tensors. Their graph holds this object, so that they would hold each other for ever."""
        self.saved, self.alive, self._results, self._targets, self._state = [], {}, [], [], []

    def commit(self) -> None:
        """Let the forward have happened: its buffers and random streams are from now on those after it."""
        with torch.no_grad():
            for tensor, content in self._state:
                tensor.copy_(content)
        for restore in self.restore_streams:
            restore()

    def _sum_of_versions(self) -> int:
        return sum(t._version for t in self.saved) + sum(t._version for t in self.alive.values())


def _is_statistic(buffer: Tensor) -> bool:
    """Whether it could be a running average, which batch normalisation writes without a new version."""
    return buffer.ndim == 1 and buffer.is_floating_point()


def _setter(generator: torch.Generator) -> Callable[[], None]:
    state = generator.get_state()
    return lambda: cast("None", generator.set_state(state))


def _flat(results: list[Any]) -> list[Any]:
    return [item for found in results for item in _items(found)]


def _items(found: Any) -> list[Any]:
    return cast("list[Any]", found) if isinstance(found, list) else [found]
