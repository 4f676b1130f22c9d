"""Weights on the per-example losses of an unmodified `training_step`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from litselect.scoring.loss_call import LOSSES, LossCall, summed
from litselect.scoring.loss_capture import CaptureError
from litselect.scoring.loss_in_graph import recomputes
from litselect.scoring.row_order import has_graph, keeps_rows, tensors_of, written_to

if TYPE_CHECKING:
    from jaxtyping import Float


class LossWeights(TorchFunctionMode):
    r"""While active, multiplies each example's part of every loss by its weight.

    A mean still divides by what it would divide by without weights, so plain means give :math:`\frac{1}{k} \sum_i w_i
    l_i`, which is unbiased where the weights are. With class weights or ``ignore_index`` the divisor itself depends on
    the chosen rows: there the estimate is only self-normalised. Where the step asks for unreduced losses, the weights
    are applied when it reduces them, after all that it makes of them in between (a focal factor, a mask).

    Args:
        weights: ``[k]``, one a row of the batch that is trained.
        spare_metrics: leave losses without a graph what they are, where the step is going to go backward.
    """

    def __init__(self, weights: Float[Tensor, " kept"], *, spare_metrics: bool = False) -> None:
        super().__init__()
        self.weights = weights
        self._spares_metrics = spare_metrics
        self.applied = 0
        self._rowful: dict[int, Tensor] = {}  # unreduced losses and what became of them, not weighted yet

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in LOSSES:
            weighs = not self._spares_metrics or has_graph(args, kwargs)
            return self._loss(func, args, kwargs) if weighs else func(*args, **kwargs)
        if self._rowful and any(id(arg) in self._rowful for arg in tensors_of(args, kwargs)):
            return self._derived(func, args, kwargs)
        return func(*args, **kwargs)

    def _loss(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        call = LossCall.parse(function, args, kwargs)
        elements = call.elements()
        k = self.weights.numel()
        if not call.of_rows(elements, k):
            return function(*args, **kwargs)
        if recomputes():
            raise CaptureError(
                f"Rows have weights, but {function.__name__} is called within an activation checkpoint, which computes "
                "it again on the way backward, where weights don't reach. Compute the loss outside of the checkpoint, "
                "or use a selector without weights."
            )
        self.applied += 1
        if call.reduction == "none":
            self._rowful[id(elements)] = elements
            return elements
        weighted = self._weighted(elements)
        if (lengths := call.own_lengths()) is not None:
            return (weighted / lengths.to(weighted)).mean()
        return (summed(weighted) / call.denominator(elements)).to(elements.dtype)

    def _derived(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function on unreduced losses: if its result has no longer a row per example, on weighted ones."""
        target, k = written_to(func, args), self.weights.numel()
        if target is not None and id(target) not in self._rowful:
            if not keeps_rows(func, args, kwargs, target, k):
                return self._on_weighted(func, args, kwargs)  # not first without weights: it would write twice
            self._rowful[id(target)] = target  # from now on
        result = func(*args, **kwargs)
        if keeps_rows(func, args, kwargs, result, k):
            if result.requires_grad or not self._spares_metrics:
                self._rowful[id(result)] = result
            return result
        if isinstance(result, Tensor) and not result.is_floating_point():
            return result  # a mask, a count
        if (picked := self._picked(args[0] if args else kwargs.get("input"), result)) is not None:
            return picked
        if isinstance(result, (Tensor, tuple)) or func is Tensor.__iter__:
            return self._on_weighted(func, args, kwargs)
        return result

    def _picked(self, losses: Any, result: Any) -> Any:
        """Of a sort, a topk or the like: the places that the losses themselves have there, with weighted values."""
        places: Any = getattr(result, "indices", None)  # as the named tuples call them, of which values come first
        if not isinstance(places, Tensor) or losses.ndim != 1:
            return None
        return type(result)((self._weighted(losses)[places], places))

    def _on_weighted(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*map(self._opened, args), **{name: self._opened(value) for name, value in kwargs.items()})

    def _opened(self, arg: Any) -> Any:
        if type(arg) in (list, tuple):
            return type(arg)(self._opened(item) for item in arg)
        return self._weighted(arg) if id(arg) in self._rowful else arg

    def _weighted(self, elements: Tensor) -> Tensor:
        k = self.weights.numel()
        return (elements.reshape(k, -1) * self.weights.to(elements.dtype).reshape(k, 1)).reshape(elements.shape)
