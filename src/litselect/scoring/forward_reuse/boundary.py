"""Where a training step comes to its first loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from litselect.scoring.forward_reuse.recorder import Recorder
from litselect.scoring.loss_call import LOSSES
from litselect.scoring.loss_capture import BACKWARD, LossCapture
from litselect.scoring.row_order import tensors_of

_READS: Final = frozenset({getattr(Tensor, name) for name in ("tolist", "numpy", "__array__", "__dlpack__")})


class Boundary(TorchFunctionMode):
    """Calls `reach` at the first loss."""

    def __init__(self, reach: Callable[[], None]) -> None:
        super().__init__()
        self._reach = reach

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in LOSSES:
            self._reach()
        return func(*args, **(kwargs or {}))


class BoundaryCapture(LossCapture):
    """Takes the losses out of a step whose network runs with gradients, and freezes the recording at the first.

    From there on the step runs without gradients, as in any scoring pass. What came from a loss is told from what came
    from the network by name, since both have a graph here.
    """

    def __init__(self, n: int, recorder: Recorder) -> None:
        super().__init__(n)
        self._recorder = recorder
        self._ours: dict[int, Tensor] = {}  # losses and what became of them

    def reach(self) -> None:
        """The network's part ends here."""
        self._recorder.freeze()
        torch.set_grad_enabled(False)

    def _total(self, step: Callable[[], Any]) -> Tensor | None:
        def with_gradients() -> Any:
            with torch.enable_grad():
                return step()

        return super()._total(with_gradients)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self._recorder.frozen:
            if func in LOSSES or func is BACKWARD:
                self.reach()
            elif func in _READS and self._recorder.made(args[0]):
                self._recorder.fail(f"training_step reads values ({func.__name__}) before its first loss")
        return super().__torch_function__(func, types, args, kwargs)

    def _is_of_losses(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return any(id(arg) in self._ours for arg in tensors_of(args, kwargs))

    def _as_reduced(self, value: Tensor, own: Tensor, *, is_sum: bool) -> Tensor:
        return self._note(super()._as_reduced(value, own, is_sum=is_sum))

    def _as_elements(self, elements: Tensor) -> Tensor:
        return self._note(super()._as_elements(elements))

    def _derived(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._note(super()._derived(func, args, kwargs))

    def _note(self, result: Any) -> Any:
        for item in tensors_of((result,), {}):
            if isinstance(item, Tensor) and cast("Any", item).grad_fn is not None:
                self._ours[id(item)] = item
        return result
