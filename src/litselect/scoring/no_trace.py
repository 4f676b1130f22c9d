"""Guards under which a module can be run as if it had not been."""

from __future__ import annotations

import random
from collections import deque
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERNAL = frozenset(nn.Module().__dict__)  # what a bare module has: guarded on its own or not written by a forward


class NoTrace(AbstractContextManager["NoTrace"]):
    """Inside, `module` may run; outside, nothing shows that it did, also when it raised.

    Put back are: train/eval flags, buffers, states of torchmetrics, attributes of the outermost module (with the
    contents of lists, dicts, sets and deques), and the random streams of torch (the CPU's and the device's), numpy and
    Python; with ``gradients=True`` also gradients and ``requires_grad`` flags. Not guarded: what lies outside the
    module (files, prints, objects reached through attributes).

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
            *(_buffers(buffers) for module in modules if (buffers := module.__dict__.get("_buffers"))),
            *(_metric(module) for module in modules if _is_metric(module)),
            _attributes(self._module),
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
        for restore in self._restore:
            restore()
        del self._restore


def _random_streams(module: nn.Module) -> list[Callable[[], None]]:
    cpu, numpy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - the user's
    found: list[Callable[[], None]] = [
        lambda: torch.set_rng_state(cpu),
        lambda: np.random.set_state(numpy),  # noqa: NPY002
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
    saved = {name: (buffer, buffer.detach().clone()) for name, buffer in owned.items() if buffer is not None}
    versions = {name: buffer._version for name, (buffer, _) in saved.items() if not buffer.is_inference()}

    def restore() -> None:
        for name, (buffer, content) in saved.items():
            if versions.get(name) != buffer._version:
                with torch.no_grad():
                    buffer.copy_(content)
            owned[name] = buffer  # also where the pass put another tensor in its place

    return restore


def _is_metric(module: nn.Module) -> bool:
    return hasattr(module, "_defaults") and hasattr(module, "_update_count")  # a torchmetrics.Metric, by its shape


def _metric(metric: nn.Module) -> Callable[[], None]:
    names = [
        *cast("dict[str, Any]", metric._defaults),
        "_update_count",
        "_computed",
        "_forward_cache",
        "_is_synced",
    ]
    saved = {name: _copy(metric.__dict__[name]) for name in names if name in metric.__dict__}

    def restore() -> None:
        metric.__dict__.update(saved)

    return restore


def _attributes(module: nn.Module) -> Callable[[], None]:
    saved = {name: value for name, value in module.__dict__.items() if name not in _INTERNAL}
    contents = {name: value.copy() for name, value in saved.items() if type(value) in (list, dict, set, deque)}

    def restore() -> None:
        for name in [name for name in module.__dict__ if name not in saved and name not in _INTERNAL]:
            del module.__dict__[name]
        module.__dict__.update(saved)
        for name, content in contents.items():
            container = saved[name]
            container.clear()
            container.extend(content) if isinstance(content, (list, deque)) else container.update(content)

    return restore


def _gradients(module: nn.Module) -> Callable[[], None]:
    saved = [(parameter, parameter.grad, parameter.requires_grad) for parameter in module.parameters()]
    for parameter, _, _ in saved:
        parameter.grad = None  # zeroing in place finds nothing to zero

    def restore() -> None:
        for parameter, gradient, requires in saved:
            parameter.requires_grad = requires
            parameter.grad = gradient

    return restore


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return [_copy(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value
