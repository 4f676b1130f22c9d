"""The graph of k rows, out of the forward of N."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from litselect.scoring.forward_reuse.plan import FRESH, SAME, VIEW, Plan
from litselect.scoring.forward_reuse.recorder import Recorder
from litselect.scoring.forward_reuse.row_layout import RowLayout
from litselect.scoring.forward_reuse.saved_rows import SavedRows
from litselect.scoring.forward_reuse.unsupported import Diverged, Unsupported


class Replay(TorchDispatchMode):
    """Computes nothing of the network: only its graph is built. From the first loss on, all is computed.

    There every tensor of the replay that is still held gets the recorded rows' values, whoever holds it, and buffers
    and random streams become those after the recorded forward.

    Args:
        plan: what to do.
        recorder: the forward of N rows.
        rows: ``[k]``, ascending, on the device of the batch.
    """

    def __init__(self, plan: Plan, recorder: Recorder, rows: Tensor) -> None:
        cast("Any", super()).__init__()
        self._plan, self._recorder = plan, recorder
        self._calls, self._length, self._fillable = plan.calls, len(plan.calls), plan.fillable
        self._i = self._saved = 0
        self._made: list[Any] = []
        self._slices = SavedRows(plan, rows)
        self._packed = self._slices.pack(recorder.saved)
        self._to_save = len(self._packed)
        self.done = False

    def run(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, with a graph through the recorded rows.

        Raises:
            Diverged: if the operations are not those of the plan.
        """
        with self, torch.autograd.graph.saved_tensors_hooks(self._pack, self._slices.unpack):
            result = call()
        if not self.done:
            if self._i != self._length:
                raise Diverged(f"it ended after {self._i} of {self._length} operations")
            self._finish()
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch's guard against it takes longer than all of ours

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        i = self._i
        if i == self._length:
            if not self.done:
                self._finish()
            return func(*args, **(kwargs or {}))
        result: Any
        planned, kind, what = self._calls[i]
        if planned is not func:
            raise Diverged(f"operation {i} was {planned}, but is now {func}")
        self._i = i + 1
        if kind == FRESH:
            result = what()
            self._made.append(ref(result))
            return result
        if kind == SAME:
            self._made.append(None)
            return args[what]
        if kind == VIEW:
            result = func(*args, **(kwargs or {}))
        else:
            single, results = what
            found = [_make(one, args, kwargs or {}) for one in results]
            result = cast("Any", found[0] if single else tuple(found))
        if self._fillable[i]:
            items = cast("Any", result if isinstance(result, (tuple, list)) else [result])
            self._made.append([ref(items[j]) for _, j in self._fillable[i]])
        else:
            self._made.append(None)
        return cast("Any", result)

    def _pack(self, tensor: Tensor) -> Any:
        if self._saved < self._to_save:
            self._saved += 1
            return self._packed[self._saved - 1]
        if self._i != self._length:
            raise Diverged(f"autograd saves more than the {self._saved} tensors of the plan")
        return tensor.detach() if self.done else self._of_first_loss(tensor)

    def _of_first_loss(self, tensor: Tensor) -> Tensor:
        """Autograd saves what an operation gets before we see that operation."""
        self._finish()
        return tensor.detach()  # itself it would hold its own graph, and never be freed

    def _finish(self) -> None:
        """The first loss: let everything that is held have its value, and the forward have happened."""
        if self._saved != self._to_save:
            raise Diverged(f"autograd saved {self._saved} of {self._to_save} tensors")
        self.done = True
        with cast("Any", torch)._C.DisableTorchFunction(), torch.no_grad():
            for places, made in zip(self._fillable, self._made, strict=True):
                items = cast("list[Any]", made) if isinstance(made, list) else [made] if made is not None else []
                for place, item in zip(places, items, strict=False):
                    tensor = item()
                    if tensor is not None:
                        self._fill(tensor, place)
        self._made, self._packed = [], []  # the graph holds this object, and is to be freed piece by piece
        self._recorder.commit()
        if torch.is_autocast_enabled() or torch.is_autocast_enabled("cpu"):
            torch.clear_autocast_cache()  # of parameters in a lower precision, which were not computed

    def _fill(self, tensor: Tensor, place: tuple[int, int]) -> None:
        recorded = self._recorder.alive.get(place)
        if recorded is None:
            raise Diverged(f"it holds a result of operation {place[0]}, which it did not")
        layout = self._plan.results[place]
        if isinstance(layout, Unsupported):
            raise Diverged(str(layout))
        for dim, stride in enumerate(tensor.stride()):
            if stride == 0 and tensor.shape[dim] > 1:  # expanded: one entry stands for all
                tensor, recorded = tensor.narrow(dim, 0, 1), recorded.narrow(dim, 0, 1)
                layout = None if isinstance(layout, RowLayout) and layout.dim == dim else layout
        # Not as a change in place, which autograd forbids while it saves the tensor.
        tensor.data.copy_(self._slices.rows(recorded, layout))


def _make(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if result.make is not None:
        return result.make()
    if result.source is not None:
        return args[result.source] if isinstance(result.source, int) else kwargs[result.source]
    return result.constant
