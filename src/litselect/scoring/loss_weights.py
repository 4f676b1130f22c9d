"""Weights on the per-example losses of an unmodified `training_step`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from litselect.scoring.loss_call import LOSSES, LossCall

if TYPE_CHECKING:
    from jaxtyping import Float


class LossWeights(TorchFunctionMode):
    r"""While active, multiplies each example's part of every loss by its weight.

    A mean still divides by what it would divide by without weights, so plain means give :math:`\frac{1}{k} \sum_i w_i
    l_i`, which is unbiased where the weights are. With class weights or ``ignore_index`` the divisor itself depends on
    the chosen rows: there the estimate is only self-normalised.

    Args:
        weights: ``[k]``, one a row of the batch that is trained.
    """

    def __init__(self, weights: Float[Tensor, " kept"]) -> None:
        super().__init__()
        self.weights = weights
        self.applied = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in LOSSES:
            return func(*args, **kwargs)
        call = LossCall.parse(func, args, kwargs)
        elements = call.elements()
        k = self.weights.numel()
        if elements.ndim == 0:
            elements = elements.reshape(1)
        if elements.shape[0] == 0 or elements.shape[0] % k:
            return func(*args, **kwargs)
        self.applied += 1
        weighted = (elements.reshape(k, -1) * self.weights.to(elements.dtype).reshape(k, 1)).reshape(elements.shape)
        if call.reduction == "none":
            return weighted
        if (lengths := call.own_lengths()) is not None:
            return (weighted / lengths.to(weighted)).mean()
        return weighted.sum() / call.denominator(elements)
