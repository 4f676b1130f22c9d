"""Guards under which a module can be run as if it had not been."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERNAL = frozenset(nn.Module().__dict__)  # what a bare module has: guarded on its own or not written by a forward
_CONTAINERS = frozenset({list, dict, set, deque, defaultdict, OrderedDict, Counter})


class NoTrace(AbstractContextManager["NoTrace"]):
    """Inside, `module` may run; outside, nothing shows that it did, also when it raised.

    Put back are: train/eval flags, buffers, attributes of all modules, metrics' states among them (with the contents of
    tensors and of lists, dicts, sets and deques, nested ones too, and the states of generators), and the random
    streams of torch (the CPU's and the device's), numpy and Python; with ``gradients=True`` also gradients and
    ``requires_grad`` flags. Not guarded: parameters (a momentum encoder that the step itself moves), tensors in lists
    and numpy arrays that are changed in place, and what lies outside the module (files, prints, other objects).

    Args:
        module: the module that runs inside.
        training: the train/eval flag of all its modules inside; ``None`` leaves them.
        gradients: whether the pass could touch gradients (manual optimization).
    """

    def __init__(self, module: nn.Module, *, training: bool | None = False, gradients: bool = False) -> None:
        self._module = module
        self._training = training
        self._guard_gradients = gradients

    def __enter__(self) -> NoTrace:
        modules = list(self._module.modules())
        self._restore: list[Callable[[], None]] = [
            *_random_streams(self._module),
            *(_buffers(cast("Any", module)._buffers) for module in modules),
            *_attributes(modules),
            _flags(modules),
        ]
        if self._guard_gradients:
            self._restore.append(_gradients(self._module))
        if self._training is not None:
            for module in modules:
                # Not module.eval(), which users override (to keep a backbone frozen, say).
                if module.training != self._training:
                    module.training = self._training
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.put_back()
        del self._restore

    def put_back(self) -> None:
        """Put everything back now; the module may run on, and this can be called again."""
        for restore in self._restore:
            restore()


def streams(module: nn.Module) -> list[Callable[[], None]]:
    """How to put the global random streams, those of `module`'s device among them, back to where they are now."""
    return _random_streams(module)


def _random_streams(module: nn.Module) -> list[Callable[[], None]]:
    cpu, numpy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - the user's
    found: list[Callable[[], None]] = [
        lambda: torch.set_rng_state(cpu),
        lambda: np.random.set_state(numpy),  # noqa: NPY002 - the user's
        lambda: random.setstate(python),
    ]
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        accelerator = getattr(torch, device.type)
        state = accelerator.get_rng_state(device) if device.type == "cuda" else accelerator.get_rng_state()
        found.append(
            lambda: (
                accelerator.set_rng_state(state, device) if device.type == "cuda" else accelerator.set_rng_state(state)
            )
        )
    return found


def _flags(modules: list[nn.Module]) -> Callable[[], None]:
    flags = [module.training for module in modules]

    def restore() -> None:
        for module, flag in zip(modules, flags, strict=True):
            if module.training != flag:
                module.training = flag

    return restore


def _buffers(owned: dict[str, Tensor | None]) -> Callable[[], None]:
    saved = dict(owned.items())  # of a scripted module, it is no dict
    contents = [_tensor(buffer) for buffer in saved.values() if buffer is not None]

    def restore() -> None:
        for content in contents:
            content()
        for name in set(owned.keys()) - saved.keys():
            del owned[name]
        for name, buffer in saved.items():
            if name not in owned or owned[name] is not buffer:
                owned[name] = buffer  # the pass put another tensor in its place

    return restore


def _tensor(tensor: Tensor) -> Callable[[], None]:
    if tensor.is_inference():
        return lambda: None  # nothing may change it in place
    content, version, graph = tensor.detach().clone(), tensor._version, tensor.requires_grad
    statistics = tensor.ndim == 1 and tensor.is_floating_point() and tensor.stride() == (1,)

    def restore() -> None:
        if tensor._version != version:
            with torch.no_grad():
                tensor.copy_(content)
        elif statistics:
            tensor.data.copy_(content)  # batch_norm writes running averages without a new version
        if tensor.requires_grad and not graph:
            tensor.detach_()  # the loss was added to it

    return restore


def _attributes(modules: list[nn.Module]) -> list[Callable[[], None]]:
    restore: list[Callable[[], None]] = []
    known: set[int] = set()
    for module in modules:
        own = module.__dict__
        saved = {name: own[name] for name in own.keys() - _INTERNAL}
        restore.append(partial(_rebind, own, saved))
        for value in saved.values():
            _contents(value, restore, known)
    return restore


def _rebind(own: dict[str, Any], saved: dict[str, Any]) -> None:
    for name in own.keys() - _INTERNAL - saved.keys():
        del own[name]
    own.update(saved)


def _contents(value: Any, restore: list[Callable[[], None]], known: set[int]) -> None:
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
            _contents(item, restore, known)
    elif kind is Tensor and not value.requires_grad:
        known.add(id(value))
        restore.append(_tensor(value))
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
