"""Where the host would wait for a device, found out without one.

`Elsewhere` is a tensor on a device that the host can't look into; its values are kept beside it. `HostSyncs` lets torch
compute with such tensors, puts new ones where the code asks for them, and notes what would make CUDA's host wait: a
value that is read, a size that depends on values, a copy that blocks. What it can't know is said by CUDA itself, in the
tests marked `gpu`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

import litselect

LITSELECT = Path(litselect.__file__).parent
DEVICE = torch.device("meta")  # which every build of torch has, and which is not the CPU

_READS = frozenset({"_local_scalar_dense", "item", "is_nonzero", "equal"})
_SIZES = frozenset(
    {
        *("nonzero", "masked_select", "argwhere", "bincount"),
        *("unique", "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
    }
)
_INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
_FROM_DATA = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor})
_HANDING_ON = frozenset({"__torch_function__", "_derived"})  # of the modes that watch a training step
_BETWEEN = tuple(
    str(path)
    for path in (
        *(Path(sys.modules[name].__file__ or "").parent for name in ("torch", "jaxtyping", "beartype")),
        Path(__file__),
        Path(__file__).with_name("shapes.py"),
    )
)


class Elsewhere(Tensor):
    """A tensor whose device is not the CPU; `held` are its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=int(held.storage_offset()),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held.detach()
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        _note("tolist")
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        _note("numpy")
        return self.held.numpy()


def elsewhere(value: Any) -> Any:
    """`value` with its tensors, in whatever nest, put elsewhere."""
    return tree_map_only(Tensor, lambda tensor: Elsewhere(tensor.clone()), value)


def here(value: Any) -> Any:
    """The values of tensors that are elsewhere."""
    return tree_map_only(Elsewhere, lambda tensor: tensor.held, value)


class HostSyncs(TorchDispatchMode):
    """Notes in `found` what would make the host wait: which operation, and the line that called it.

    Args:
        callers: files and folders; only what is called from there is noted. None given: all is.
        anywhere: whether to note it of tensors on the CPU too, where looking is free: for runs that have no others.
    """

    def __init__(self, *callers: Path | str, anywhere: bool = False) -> None:
        super().__init__()
        self.found: list[str] = []
        self.anywhere = anywhere
        self._callers = tuple(str(caller) for caller in callers)
        self._functions = _Functions()

    def __enter__(self) -> "HostSyncs":
        _active.append(self)
        self._functions.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._functions.__exit__(*error)
        _active.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {}, self.anywhere)

    def note(self, what: str) -> None:
        frame = _caller()
        path = frame.f_code.co_filename
        if not self._callers or path.startswith(self._callers):
            self.found.append(f"{what} in {frame.f_code.co_name} ({Path(path).name}:{frame.f_lineno})")

    @property
    def operations(self) -> list[str]:
        """What was found, without the places."""
        return [found.partition(" in ")[0] for found in self.found]


class _Functions(TorchFunctionMode):
    """Sees what torch would make elsewhere of Python's numbers without asking anyone: a copy that blocks."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = None
        if func in _FROM_DATA and _is_elsewhere(kwargs.get("device")) and not isinstance(args[0], Tensor):
            made = func(*args, **{**kwargs, "device": "cpu"})
        elif func is Tensor.new_tensor and isinstance(args[0], Elsewhere) and not kwargs.get("device"):
            made = args[0].held.new_tensor(*args[1:], **kwargs)
        if made is None:
            return func(*args, **kwargs)
        if func is not torch.scalar_tensor:  # which is filled on the device
            _note("copy to the device")
        return Elsewhere(made)


_active: list[HostSyncs] = []


def _note(what: str) -> None:
    if _active:
        _active[-1].note(what)


def _caller() -> FrameType:
    """The innermost frame that is neither torch's nor a checker's, and does not hand on what a step has called."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith((*_BETWEEN, "<")) or frame.f_code.co_name in _HANDING_ON
    ):
        frame = frame.f_back
    return frame


def _is_elsewhere(device: Any) -> bool:
    return device is not None and torch.device(device) == DEVICE


def _compute(func: Any, args: Sequence[Any], kwargs: dict[str, Any], anywhere: bool = False) -> Any:
    """What an operation gives, with its results where CUDA would have them."""
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    far = any(isinstance(tensor, Elsewhere) for tensor in given)
    to = kwargs.get("device")
    if (far or anywhere) and (what := _wait(func, args, kwargs)) is not None:
        _note(what)
    if not far and not _is_elsewhere(to):
        return func(*args, **kwargs)
    name = func.overloadpacket.__name__
    if name in ("_to_copy", "copy_"):
        _note_copy(name, args, kwargs)
    elif far and any(not isinstance(tensor, Elsewhere) and tensor.ndim for tensor in given):
        _note(f"{name} of tensors on two devices")
    held_args, held_kwargs = here((tuple(args), kwargs))
    if to is not None:
        held_kwargs["device"] = torch.device("cpu")
    out = func(*held_args, **held_kwargs)
    if to is not None and not _is_elsewhere(to):
        return out
    written = [args[i] for i, arg in enumerate(func._schema.arguments) if arg.is_write and i < len(args)]
    if written:
        return None if out is None else written[0]
    return tree_map_only(Tensor, Elsewhere, out)


def _wait(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
    """Why the host would wait for the operation itself."""
    name = func.overloadpacket.__name__
    if name in _READS or name in _SIZES:
        return name
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return name
    if name in _INDEXED:
        masks = [index for index in args[1] if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)]
        fills = name != "index" and len(args[1]) == len(masks) == 1 and args[2].numel() == 1  # as masked_fill does
        if masks and not fills:
            return f"{name} by a mask"
    return None


def _note_copy(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """A copy between devices: the host waits, or goes on before the values have arrived."""
    if name == "_to_copy":
        source, to, waits_not = args[0], kwargs.get("device"), kwargs.get("non_blocking", False)
        arrives = isinstance(source, Elsewhere) if to is None else _is_elsewhere(to)
    else:
        source, arrives, waits_not = args[1], isinstance(args[0], Elsewhere), len(args) > 2 and args[2]
    if isinstance(source, Elsewhere) == arrives:
        return
    if not arrives:
        _note("unfinished copy to the host" if waits_not else "copy to the host")
    elif not waits_not:
        _note("copy to the device")
