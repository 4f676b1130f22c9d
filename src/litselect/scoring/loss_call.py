"""What is known of torch's own loss functions: their elements, and what their mean divides by."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float

_NAMES: Final = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "linear_cross_entropy",  # torch 2.15
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
)
LOSSES: Final[frozenset[Callable[..., Tensor]]] = frozenset(getattr(F, name) for name in _NAMES if hasattr(F, name))
"""The loss functions of `torch.nn.functional` that reduce to one number; the loss modules call them."""
_PARAMETERS: Final = {
    function: (tuple(parameters), {name: p.default for name, p in parameters.items() if p.default is not p.empty})
    for function in LOSSES
    for parameters in (inspect.signature(function).parameters,)
}
"""Names and defaults: binding a signature takes ten times as long."""
_HALVES: Final = (torch.float16, torch.bfloat16)
"""Are summed in float32: they may not hold the sum where they hold the mean."""
_ELEMENT_WEIGHTS: Final = frozenset({F.mse_loss, F.l1_loss})  # their `weight` is one an element, and divides the mean


@dataclass(frozen=True)
class LossCall:
    """One call of a loss function, with what was asked for.

    Args:
        function: the loss function.
        arguments: its arguments by name, defaults filled in.
        reduction: ``"none"``, ``"mean"``, ``"sum"`` or ``"batchmean"``.
    """

    function: Callable[..., Tensor]
    arguments: dict[str, Any]
    reduction: str

    @classmethod
    def parse(cls, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> LossCall:
        """Read a call; the deprecated ``size_average`` and ``reduce`` are understood."""
        names, defaults = _PARAMETERS[function]
        arguments = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        average, reduce = arguments.pop("size_average", None), arguments.pop("reduce", None)
        reduction = cast("str", arguments.pop("reduction"))
        if average is not None or reduce is not None:
            reduction = "none" if reduce is False else "sum" if average is False else "mean"
        return cls(function, arguments, reduction)

    def elements(self) -> Float[Tensor, "..."]:
        """The loss before any reduction, class weights included."""
        return self.function(**self.arguments, reduction="none")

    def counts(self, elements: Float[Tensor, "..."]) -> Tensor | None:
        """For each element, whether it counts as one in its example's own mean (``None``: all do)."""
        if self._ignored is not None:
            return self._ignored.logical_not().reshape(elements.shape)
        return None

    def of_rows(self, elements: Float[Tensor, "..."], n: int) -> bool:
        """Whether the elements can be those of `n` examples: a penalty on parameters has none, whatever its shape."""
        compared = [self.arguments.get(name) for name in ("input", "target")]
        of_parameters = any(isinstance(each, nn.Parameter) and each.shape == elements.shape for each in compared)
        return not of_parameters and rows_of(elements, n) is not None

    def again(self) -> Float[Tensor, ""]:
        """What the call returns."""
        return self.function(**self.arguments, reduction=self.reduction)

    def denominator(self, elements: Float[Tensor, "..."]) -> Tensor | int:
        """What the reduction divides the sum of the elements by."""
        if self.reduction == "sum":
            return 1
        if self.reduction == "batchmean":
            return elements.shape[0]
        if self.function is F.ctc_loss:
            raise ValueError("The mean of a CTC loss divides every example by its own length; weigh its elements.")
        weight = self.arguments.get("weight")
        if self.function in _ELEMENT_WEIGHTS and weight is not None:
            return weight.sum()
        if self._ignored is None:
            return elements.numel()
        if weight is None:
            return self._ignored.logical_not().sum()
        target = torch.where(self._ignored, 0, self.arguments["target"])
        return (weight[target.long()] * ~self._ignored).sum()  # torch takes uint8 for classes, but for a mask here

    def per_example(self, elements: Float[Tensor, "..."], n: int) -> Float[Tensor, " n"] | None:
        """What each of `n` examples contributes, as if it were a batch of its own; of a sum, its part.

        ``None`` where the elements are not those of `n` examples, one after the other.
        """
        rows = rows_of(elements, n)
        if rows is None:
            return None
        if self.reduction == "mean" and elements.numel() == n and self.function is not F.ctc_loss:
            return elements.reshape(n)  # the mean over one element; if that is ignored, it is zero already
        if rows.dtype in _HALVES:
            rows = rows.float()
        counts = self.counts(elements)
        if (lengths := self.own_lengths()) is not None:
            rows = rows / lengths.to(rows).reshape(-1, 1)
        if self.reduction == "batchmean":
            return rows.sum(1) * (n / elements.shape[0])
        if self.reduction == "sum":
            return rows.sum(1)
        if counts is None:
            return rows.mean(1)
        return rows.sum(1) / counts.reshape(n, -1).sum(1).clamp_min(1)

    def own_lengths(self) -> Tensor | None:
        """``[N]``: what the mean divides each example's loss by before it averages (CTC alone does)."""
        if self.function is F.ctc_loss and self.reduction == "mean":
            lengths = torch.as_tensor(self.arguments["target_lengths"])
            return lengths.clamp_min(1)
        return None

    @functools.cached_property
    def _ignored(self) -> Tensor | None:
        """Mask of the targets that equal ``ignore_index``, where the loss has class-index targets."""
        if "ignore_index" not in self.arguments:
            return None
        target, ignored = cast("Tensor", self.arguments["target"]), self.arguments["ignore_index"]
        if target.is_floating_point():
            return None  # class probabilities: torch forbids ignore_index and averages over all
        return target == (-100 if ignored is None else ignored)  # torch's own default, where it says None


def summed(elements: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Their sum, in float32 at the least."""
    return elements.sum(dtype=torch.float32 if elements.dtype in _HALVES else None)


def rows_of(elements: Float[Tensor, "..."], n: int) -> Float[Tensor, "n ..."] | None:
    """``[N, elements of an example]``, if the first dimension holds the examples, flattened batch-major or not."""
    if elements.ndim == 0:
        elements = elements.reshape(1)
    size = elements.shape[0]
    return elements.reshape(n, -1) if size and size % n == 0 else None
