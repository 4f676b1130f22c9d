"""Per-example losses out of a `training_step` that knows nothing of them.

The step runs as it is. Where it calls one of torch's loss functions, the function's value per example is noted and the
value that was asked for is handed back as the leaf of a tiny autograd graph. The step's own arithmetic then builds its
total from those leaves, and the derivative of the total with respect to each leaf is the coefficient that the step gave
it: ``a + 0.3 * b``, ``torch.stack([a, b]).mean()``, masks and ``.item()`` come out right without being understood.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from litselect.scoring.loss_call import LOSSES, LossCall, rows_of, summed
from litselect.scoring.row_order import MEANS, is_total, keeps_rows, tensors_of

if TYPE_CHECKING:
    from jaxtyping import Float

BACKWARD: Final = cast("Any", Tensor).backward
_DIVISIONS: Final = frozenset(
    {torch.div, torch.true_divide, Tensor.div, Tensor.true_divide, Tensor.div_, Tensor.true_divide_}
)
_PRODUCTS: Final = frozenset({torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.mul_, Tensor.multiply_})


class CaptureError(RuntimeError):
    """No per-example loss could be taken from a training step."""


class StepDone(BaseException):
    """Raised where the step wants to go backward; carries the loss. Not an `Exception`, so that no step swallows it."""

    def __init__(self, loss: Tensor) -> None:
        super().__init__()
        self.loss = loss


class LossCapture(TorchFunctionMode):
    """Records the per-example parts of every loss that is computed while it is active.

    An example's part of a mean is the mean over its own elements (pixels, tokens), ignored ones left out: what the
    loss would be for a batch of that example alone. Class weights stay factors. A sum counts as a mean once the step
    divides it by a tensor, or by a whole number that may be one of examples or elements: of at least half of `n` (fewer
    are left by few masks; smaller ones are factors), or multiplies it by one over such a number. But what may be
    written by hand, of two digits as in ``0.1 * sum``, is a factor, unless there are just so many (ten) of either.
    `sum / n + mean` then weighs both parts as the step does. Over a count of elements, an example's part is the larger
    the more of them it has: n of its sum over the count.

    Args:
        n: the number of examples in the batch.
        counts: what the sums of the first of several chunks were divided by, in their order, to which those of this one
            are scaled; an empty list is filled with them.
    """

    def __init__(self, n: int, counts: list[Any] | None = None) -> None:
        super().__init__()
        self.n = n
        self._counts: list[Any] = [] if counts is None else counts
        self._counted = 0
        self.seen: list[str] = []
        self.logits: Tensor | None = None  # of the first cross-entropy over the examples
        self.targets: Tensor | None = None
        self.others: Tensor | None = None  # targets that the same logits are compared with, too
        self._whose: Tensor | None = None
        self._reduced: list[tuple[Tensor, Tensor]] = []  # (leaf, its value per example)
        self._elements: list[Tensor] = []  # leaves that were handed out unreduced
        self._rowful: dict[int, Tensor] = {}  # what became of those, while it still has a row per example
        self._sums: dict[int, Tensor] = {}  # sums over the examples, and what became of those
        self._sizes = {n}  # how many examples there are, and elements in each sum
        self._handed_out: tuple[Tensor | None, int] = None, 0  # the last mean or sum of all, as the step got it

    def run(self, step: Callable[[], Any]) -> Float[Tensor, " batch"] | None:
        """Run `step` without building the network's graph and return its loss per example.

        Returns:
            ``[N]`` float32, or ``None`` where the step itself returned ``None`` (it declined the batch).

        Raises:
            CaptureError: if the step's loss does not come from losses that were seen.
        """
        total = self._total(step)
        return None if total is None else self._attribute(total)

    def _total(self, step: Callable[[], Any]) -> Tensor | None:
        try:
            with torch.no_grad(), self:
                output = step()
        except StepDone as done:
            output = done.loss
        if isinstance(output, Mapping):
            output = cast("Mapping[str, Any]", output).get("loss")
        if output is None:
            return None
        if not isinstance(output, Tensor) or output.numel() != 1 or not output.requires_grad:
            raise CaptureError(self._explain(output))
        return output

    # ------------------------------------------------------------------ the mode

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in LOSSES:
            return self._loss(func, args, kwargs)
        if func is BACKWARD:
            raise StepDone(cast("Tensor", args[0]))
        if not self._reduced and not self._elements:
            return func(*args, **kwargs)
        return self._derived(func, args, kwargs) if self._is_of_losses(args, kwargs) else func(*args, **kwargs)

    def _is_of_losses(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Only what came from a captured loss has a graph: parameters are leaves, and all else has no gradients."""
        return any(isinstance(arg, Tensor) and arg.grad_fn is not None for arg in tensors_of(args, kwargs))

    def _loss(self, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        call, elements = self._parse(function, args, kwargs)
        self.seen.append(f"{function.__name__}{tuple(elements.shape)}")
        if not call.of_rows(elements, self.n):  # a constant of the batch
            return elements if call.reduction == "none" else function(*args, **kwargs)
        if function is F.cross_entropy:
            self._keep_logits(call.arguments["input"], call.arguments["target"])
        if call.reduction == "none":
            return self._as_elements(elements)
        self._sizes.add(elements.numel())
        own = cast("Tensor", call.per_example(elements, self.n))
        return self._as_reduced(self._value(call, elements), own, is_sum=call.reduction == "sum")

    def _value(self, call: LossCall, elements: Tensor) -> Tensor:
        """What the step gets, up to rounding."""
        # From the elements where a second call would take long: that of a language model takes a tenth of its pass.
        if call.function is F.cross_entropy and call.reduction == "mean" and elements.numel() > self.n:
            return (summed(elements) / call.denominator(elements)).to(elements.dtype)
        return call.again()

    def _parse(
        self, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[LossCall, Tensor]:
        """A call, and the loss before any reduction."""
        call = LossCall.parse(function, args, kwargs)
        return call, call.elements()

    def _keep_logits(self, logits: Tensor, targets: Tensor) -> None:
        if self.logits is None and logits.ndim == 2 and logits.shape[0] == self.n:
            self.logits, self.targets, self._whose = logits.detach(), targets.detach(), logits
        elif self.targets is not None and logits is self._whose:
            self.others = targets.detach()

    def _derived(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function on something that came from a captured loss, keeping track of the derivative."""
        tensors = tensors_of(args, kwargs)
        rowful = any(id(arg) in self._rowful for arg in tensors)
        if rowful and is_total(func, args, kwargs):
            # The step reduces on its own: what it reduces *is* its loss per example, be it focal, masked or weighted.
            elements = cast("Tensor", args[0]).detach()
            rows = cast("Tensor", rows_of(elements, self.n))
            mean = func in MEANS
            self._sizes.add(elements.numel())
            return self._as_reduced(func(elements, **kwargs), rows.mean(1) if mean else rows.sum(1), is_sum=not mean)
        with torch.enable_grad():
            result = func(*args, **kwargs)
        if rowful and keeps_rows(func, args, kwargs, result, self.n):
            self._rowful[id(result)] = result
        if isinstance(result, Tensor) and all(
            id(arg) in self._sums for arg in tensors if isinstance(arg, Tensor) and arg.grad_fn is not None
        ):
            self._sums[id(result)] = result
            count = self._count_in(func, args)
            if count is not None:
                del self._sums[id(result)]
                cast("Any", result).register_hook(partial(operator.mul, self.n * self._of_first_chunk(count)))
        return result

    def _count_in(self, func: Any, args: tuple[Any, ...]) -> Any:
        """The number of examples or of their elements that a sum is divided by; None if it is divided by none."""
        if len(args) < 2 or not any(id(arg) in self._sums for arg in args[:2]):
            return None
        if func in _DIVISIONS:
            return args[1] if id(args[0]) in self._sums and self._counts_examples(args[1]) else None
        factor = args[1] if id(args[0]) in self._sums else args[0]
        if func not in _PRODUCTS or not isinstance(factor, float) or not 1e-12 < abs(factor) < 1:
            return None
        by_hand = float(f"{factor:.2g}") == factor and round(abs(1 / factor)) not in self._sizes
        return None if by_hand or not self._counts_examples(1 / factor) else 1 / factor

    def _of_first_chunk(self, count: Any) -> Any:
        """By what the losses of this chunk are to be multiplied, to be of one scale with those of the first."""
        place, self._counted = self._counted, self._counted + 1
        if place >= len(self._counts):
            self._counts.append(count)
        return 1 if self._counts[place] is count else count / self._counts[place]

    def _counts_examples(self, divisor: Any) -> bool:
        """Whether a sum divided by this is a mean over the examples, or over their elements."""
        if isinstance(divisor, Tensor):
            return not divisor.requires_grad and divisor.numel() == 1
        whole = isinstance(divisor, (int, float)) and abs(divisor - round(divisor)) <= 1e-9 * abs(divisor)
        return whole and abs(divisor) > 1 and 2 * abs(divisor) >= self.n

    def _as_reduced(self, value: Tensor, own: Tensor, *, is_sum: bool) -> Tensor:
        with torch.enable_grad():
            leaf = self._seen(value).requires_grad_()
            self._reduced.append((leaf, own))
            result = leaf.clone()  # no leaf, so that `loss += ...` is allowed
        if is_sum:
            self._sums[id(result)] = result
        self._handed_out = result, result._version
        return result

    def _as_elements(self, elements: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = self._seen(elements).requires_grad_()
            self._elements.append(leaf)
            result = leaf.clone()
        self._rowful[id(result)] = result
        return result

    def _seen(self, value: Tensor) -> Tensor:
        """The leaf of a loss, or of its elements."""
        return value.detach()

    # ------------------------------------------------------------------ the result

    def _attribute(self, total: Tensor) -> Float[Tensor, " batch"]:
        if self._is_handed_out(total):
            return self._reduced[-1][1].detach().float()  # the derivative of a loss by itself is 1
        derivatives = self._derivatives(total, [leaf for leaf, _ in self._reduced] + self._elements)
        losses = total.new_zeros(self.n, dtype=torch.float32, requires_grad=False)
        split = len(self._reduced)
        for (_, own), coefficient in zip(self._reduced, derivatives[:split], strict=True):
            if coefficient is not None:
                losses += coefficient * own
        for elements, derivative in zip(self._elements, derivatives[split:], strict=True):
            if derivative is not None:  # reduced in a way of its own: each element's share of the total
                losses += self.n * cast("Tensor", rows_of(derivative * elements.detach(), self.n)).sum(1)
        return losses.detach()

    def _derivatives(self, total: Tensor, leaves: list[Tensor]) -> list[Tensor | None]:
        """Those of `total` by each of `leaves`; None where it does not depend on one."""
        with torch.enable_grad():
            return [*torch.autograd.grad(total, leaves, torch.ones_like(total), retain_graph=True, allow_unused=True)]

    def _is_handed_out(self, total: Tensor) -> bool:
        """Whether the step's loss is a loss function's result, as it was; that of a sum is one all the same."""
        result, version = self._handed_out
        return total is result and total._version == version

    def _explain(self, output: Any) -> str:
        shown = f"{type(output).__name__}{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        return (
            f"Selection needs one loss per example, but none could be taken from a training_step over {self.n} "
            f"examples (it returned {shown}; loss functions seen: {', '.join(self.seen) or 'none'})."
        )
