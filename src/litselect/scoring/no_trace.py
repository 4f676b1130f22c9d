"""Guards under which a module can be run as if it had not been."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from litselect.scoring.batch_lender import BatchLender
from litselect.scoring.compiled_parts import Compiled
from litselect.scoring.moved_parameters import MovedParameters
from litselect.scoring.numpy_stream import NumpyStream
from litselect.scoring.tensor_copies import TensorCopies

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERNAL = frozenset(nn.Module().__dict__)  # what a bare module has: guarded on its own or not written by a forward
_CONTAINERS = frozenset({list, dict, set, deque, defaultdict, OrderedDict, Counter})
_PLAIN = frozenset({bool, int, float, str, tuple, type(None)})  # which nothing changes in place


class NoTrace(AbstractContextManager["NoTrace"]):
    """Inside, `module` may run; outside, nothing shows that it did, also when it raised.

    Put back are: train/eval flags, buffers, attributes of all modules, metrics' states among them (with the contents of
    tensors and of lists, dicts, sets and deques, nested ones too, and the states of generators), and the random
    streams of torch (the CPU's and the device's), numpy and Python; with ``gradients=True`` also gradients and
    ``requires_grad`` flags; and parameters that the step moves itself, as a momentum encoder's, see `MovedParameters`.
    Not guarded: tensors in lists and numpy arrays that are changed in place, parameters and tensors of more than 65,536
    numbers that are written to through ``.data``, and what lies outside the module (files, prints, other objects).

    Args:
        module: the module that runs inside.
        training: the train/eval flag of all its modules inside; ``None`` leaves them.
        gradients: whether the pass could touch gradients (manual optimization).
        memory: what earlier passes through the same module left, to be used again.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        training: bool | None = False,
        gradients: bool = False,
        memory: TraceMemory | None = None,
    ) -> None:
        self._module = module
        self._training = training
        self._guard_gradients = gradients
        self._memory = TraceMemory() if memory is None else memory

    def __enter__(self) -> NoTrace:
        modules = self.modules = modules_of(self._module)
        tensors: list[Tensor] = []
        restore = _random_streams(device_of(modules), self._memory.numpy)
        restore += [_buffers(cast("Any", module)._buffers, tensors) for module in modules]
        restore += _attributes(modules, tensors)
        self._watched = self._memory.moved.watch(modules, tensors, self._memory.copies)
        # Contents first: what is put back in its place afterwards has them already.
        self._restore: list[Callable[[], None]] = [self._memory.copies.restore, *restore]
        if self._guard_gradients:
            self._restore.append(_gradients(self._module))
        self._restore.append(_flags(modules, self._training))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.put_back()
        del self._restore, self._watched, self.modules

    def put_back(self) -> None:
        """Put everything back now; the module may run on, and this can be called again."""
        moved = self._memory.moved.look(self._module, self._watched, self._memory.copies)
        for restore in self._restore:
            restore()
        if moved:
            self._watched.renew()


def streams(module: nn.Module) -> list[Callable[[], None]]:
    """How to put the global random streams, those of `module`'s device among them, back to where they are now."""
    return _random_streams(device_of(modules_of(module)), NumpyStream())


@dataclass
class TraceMemory:
    """What one pass through a module leaves for the next, so that it need not be made again."""

    copies: TensorCopies = field(default_factory=TensorCopies)
    moved: MovedParameters = field(default_factory=MovedParameters)
    numpy: NumpyStream = field(default_factory=NumpyStream)
    compiled: Compiled = field(default_factory=dict[int, Any])
    batches: BatchLender = field(default_factory=BatchLender)


def modules_of(module: nn.Module) -> list[nn.Module]:
    """`module` and all that it holds, each once; ``module.modules()`` takes several times as long."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module] = [module]
    while waiting:
        child = waiting.pop()
        if id(child) not in found:
            found[id(child)] = child
            children = [inner for inner in cast("Any", child)._modules.values() if inner is not None]
            waiting.extend(reversed(children))  # so that they are found in the order of module.modules()
    return list(found.values())


def device_of(modules: list[nn.Module]) -> torch.device:
    """Where the first parameter is."""
    own = (cast("Any", module)._parameters for module in modules)
    found = (p.device for parameters in own for p in parameters.values() if p is not None)
    return next(found, torch.device("cpu"))


def _random_streams(device: torch.device, numpy: NumpyStream) -> list[Callable[[], None]]:
    cpu, python = torch.get_rng_state(), random.getstate()
    numpy.save()
    found: list[Callable[[], None]] = [
        lambda: torch.set_rng_state(cpu),
        numpy.restore,
        lambda: random.setstate(python),
    ]
    if device.type != "cpu":
        accelerator = getattr(torch, device.type)
        state = accelerator.get_rng_state(device) if device.type == "cuda" else accelerator.get_rng_state()
        found.append(
            lambda: (
                accelerator.set_rng_state(state, device) if device.type == "cuda" else accelerator.set_rng_state(state)
            )
        )
    return found


def _flags(modules: list[nn.Module], training: bool | None) -> Callable[[], None]:
    """Set all flags to `training`; not by ``module.eval()``, which users override (to keep a backbone frozen, say)."""
    flags = [module.training for module in modules]
    if training is not None and not all(flag is training for flag in flags):
        _put(modules, [training] * len(flags))
    return lambda: _put(modules, flags)


def _put(modules: list[nn.Module], flags: list[bool]) -> None:
    for module, flag in zip(modules, flags, strict=True):
        if module.training != flag:
            own = module.__dict__
            if "training" in own:  # not of a scripted module
                own["training"] = flag  # nn.Module.__setattr__ takes 5 us
            else:
                module.training = flag


def _buffers(owned: dict[str, Tensor | None], tensors: list[Tensor]) -> Callable[[], None]:
    saved = dict(owned.items())  # of a scripted module, it is no dict
    tensors += [buffer for buffer in saved.values() if buffer is not None]

    def restore() -> None:
        for name in set(owned.keys()) - saved.keys():
            del owned[name]
        for name, buffer in saved.items():
            if name not in owned or owned[name] is not buffer:
                owned[name] = buffer  # the pass put another tensor in its place

    return restore


def _attributes(modules: list[nn.Module], tensors: list[Tensor]) -> list[Callable[[], None]]:
    restore: list[Callable[[], None]] = []
    known: set[int] = set()
    for module in modules:
        own = module.__dict__
        saved = {name: value for name, value in own.items() if name not in _INTERNAL}
        restore.append(partial(_rebind, own, saved, len(own)))
        for value in saved.values():
            if type(value) not in _PLAIN:
                _contents(value, restore, known, tensors)
    return restore


def _rebind(own: dict[str, Any], saved: dict[str, Any], size: int) -> None:
    own.update(saved)
    if len(own) != size:
        for name in own.keys() - _INTERNAL - saved.keys():
            del own[name]


def _contents(value: Any, restore: list[Callable[[], None]], known: set[int], tensors: list[Tensor]) -> None:
    """How to put back what `value` holds, if it is of a kind that is changed in place."""
    kind = cast("type[Any]", type(value))
    if id(value) in known:
        return
    if kind in _CONTAINERS:
        known.add(id(value))
        content = value.copy()
        restore.append(partial(_refill, value, content))
        items = cast("list[Any]", [*content.values()] if isinstance(content, dict) else [*content])
        for item in items if isinstance(content, dict) else [item for item in items if type(item) in _CONTAINERS]:
            _contents(item, restore, known, tensors)
    elif kind is Tensor and not value.requires_grad:
        tensors.append(value)
    elif kind is torch.Generator:
        restore.append(partial(value.set_state, value.get_state()))
    elif kind is random.Random:
        restore.append(partial(value.setstate, value.getstate()))
    elif kind is np.random.Generator:
        bits = value.bit_generator
        restore.append(partial(setattr, bits, "state", bits.state))


def _refill(container: Any, content: Any) -> None:
    container.clear()
    container.extend(content) if isinstance(content, (list, deque)) else container.update(content)


def _gradients(module: nn.Module) -> Callable[[], None]:
    saved = [(parameter, parameter.grad, parameter.requires_grad) for parameter in module.parameters()]
    for parameter, _, _ in saved:
        parameter.grad = None  # zeroing in place finds nothing to zero

    def restore() -> None:
        for parameter, gradient, requires in saved:
            parameter.requires_grad = requires
            parameter.grad = gradient

    return restore
