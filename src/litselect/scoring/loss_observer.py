"""The losses of single examples, overheard while they are trained."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, cast

import torch
from torch import Tensor

from litselect.scoring.loss_call import LOSSES, LossCall, rows_of
from litselect.scoring.loss_capture import BACKWARD, LossCapture
from litselect.scoring.loss_in_graph import is_cross_entropy, keeps_as_they_are
from litselect.scoring.row_order import MEANS, has_graph, is_total, keeps_rows, tensors_of
from litselect.scoring.scores import Scores

_TINY: Final = 1e-30


class LossObserver(LossCapture):
    """A `LossCapture` of a step that is really trained: nothing that the step computes is changed.

    Each loss function gives what it always gives, on the network's graph; beside it the values per example are noted.
    The coefficient that the step's arithmetic gave to each is the derivative of the total with respect to it, for which
    autograd walks from the total back to the losses and no further.

    Cost: the loss functions once more without a graph, and a walk over the few operations behind them.

    Args:
        n: the number of rows that are trained.
        spare_metrics: look at no loss without a graph, where the step is going to go backward.
        weights: those of a `LossWeights` around it, ``[n]``: losses are told without them.

    Attributes:
        scores: of the step's first loss that goes backward.
        plain: whether that is one cross-entropy and nothing else, so that `cross_entropy_in` may do.
    """

    def __init__(self, n: int, *, spare_metrics: bool = False, weights: Tensor | None = None) -> None:
        super().__init__(n)
        self._spares_metrics, self._weights = spare_metrics, weights
        self.scores: Scores | None = None
        self.plain = False
        self._plain: list[bool] = []  # of each mean or sum
        self._ours: dict[int, Tensor] = {}  # losses and what became of them
        self._sums_in: dict[int, set[int]] = {}  # which means and sums those came from
        self._made: list[int] = []  # which of them the step made of losses that are noted, too

    def watch(self, step: Callable[[], Any]) -> Any:
        """Run `step` as it is; its losses are then in `scores`, if any could be told apart."""
        with self:
            output: Any = step()
        total: Any = cast("Mapping[str, Any]", output).get("loss") if isinstance(output, Mapping) else output
        self._look(total)
        self._ours, self._rowful, self._sums, self._reduced, self._elements = {}, {}, {}, [], []  # free the graph
        return cast("Any", output)

    @contextmanager
    def before(self, owner: Any, name: str) -> Generator[None]:
        """Inside, look at the loss that is given to a method of `owner` ahead of what that makes of it."""
        method = getattr(owner, name)

        def look_then_call(loss: Any, *args: Any, **kwargs: Any) -> Any:
            self._look(loss)
            return method(loss, *args, **kwargs)

        attributes = owner.__dict__
        own = attributes.get(name)
        attributes[name] = look_then_call
        try:
            yield
        finally:
            del attributes[name]
            if own is not None:
                attributes[name] = own

    def _look(self, total: Any) -> None:
        if (
            self.scores is None
            and isinstance(total, Tensor)
            and total.requires_grad
            and (self._reduced or self._elements)
        ):
            with _unheard():
                self.scores = Scores(self._attribute(total), self.logits, self.targets, self.others)
            self.plain = self._plain == [True] and self._is_handed_out(total)

    # ------------------------------------------------------------------ the mode

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in LOSSES:
            looks = not self._spares_metrics or has_graph(args, kwargs)
            return self._loss(func, args, kwargs) if looks else func(*args, **kwargs)
        if func is BACKWARD:
            self._look(args[0])
            return func(*args, **kwargs)
        if self._ours and any(id(arg) in self._ours for arg in tensors_of(args, kwargs)):
            return self._derived(func, args, kwargs)
        return func(*args, **kwargs)

    def _parse(
        self, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[LossCall, Tensor]:
        call = LossCall.parse(function, args, kwargs)
        if call.reduction == "none":
            return call, function(*args, **kwargs)
        with torch.no_grad():
            return call, call.elements()

    def _value(self, call: LossCall, elements: Tensor) -> Tensor:
        value = call.again()  # on the network's graph
        self._plain.append(is_cross_entropy(value) and keeps_as_they_are())
        return value

    def _as_reduced(self, value: Tensor, own: Tensor, *, is_sum: bool) -> Tensor:
        result = value.clone()  # the step may change it in place, which must not change the value here
        self._ours[id(result)], self._sums_in[id(result)] = result, {len(self._reduced)}
        self._reduced.append((value, own.detach()))
        if is_sum:
            self._sums[id(result)] = result
        self._handed_out = result, result._version
        return result

    def _as_elements(self, elements: Tensor) -> Tensor:
        result = elements.clone()
        self._ours[id(result)], self._sums_in[id(result)] = result, set()
        self._elements.append(elements)
        self._rowful[id(result)] = result
        return result

    def _derived(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result  # a number, a shape, a comparison: of no consequence for the derivative
        with _unheard():
            return self._noted(func, args, kwargs, result)

    def _noted(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Tensor:
        """What the step gets of a `result` that came from losses, once it is known what it is of them."""
        tensors = [arg for arg in tensors_of(args, kwargs) if id(arg) in self._ours]
        rowful = any(id(arg) in self._rowful for arg in tensors)
        sums = set[int]().union(*(self._sums_in[id(arg)] for arg in tensors))
        if rowful and is_total(func, args, kwargs):
            rows = cast("Tensor", rows_of(args[0].detach(), self.n))
            self._sizes.add(rows.numel())
            mean = func in MEANS
            return self._as_made(result, rows.mean(1) if mean else rows.sum(1), is_sum=not mean)
        self._ours[id(result)], self._sums_in[id(result)] = result, sums
        if rowful and keeps_rows(func, args, kwargs, result, self.n):
            self._rowful[id(result)] = result
        if all(id(arg) in self._sums for arg in tensors):
            self._sums[id(result)] = result
            if self._count_in(func, args) is not None:
                return self._as_made(result, self._mean_of_sums(result, sums), is_sum=False)
        return result

    def _as_made(self, value: Tensor, own: Tensor, *, is_sum: bool) -> Tensor:
        """A mean or sum that the step made of losses which are noted already."""
        self._made.append(len(self._reduced))
        return self._as_reduced(value, own, is_sum=is_sum)

    def _mean_of_sums(self, mean: Tensor, sums: set[int]) -> Tensor:
        """What each row contributes to sums that were divided by the number of examples."""
        parts = [self._reduced[place] for place in sorted(sums)]
        found = torch.autograd.grad(mean, [value for value, _ in parts], retain_graph=True)
        return torch.stack([self.n * factor * own for factor, (_, own) in zip(found, parts, strict=True)]).sum(0)

    def _derivatives(self, total: Tensor, leaves: list[Tensor]) -> list[Tensor | None]:
        """With what the step made of a loss held fixed, where that is noted as a loss of its own.

        It is on the graph of that loss, so the total depends on the loss through it as well: from the latest back, that
        share is taken off.
        """
        found = super()._derivatives(total, leaves)
        for place in reversed(self._made):
            others = [other for other in range(len(leaves)) if other != place and found[other] is not None]
            if found[place] is None or not others:
                continue
            by = [leaves[other] for other in others]
            shares = torch.autograd.grad(leaves[place], by, found[place], retain_graph=True, allow_unused=True)
            for other, share in zip(others, cast("tuple[Tensor | None, ...]", shares), strict=True):
                if share is not None:
                    found[other] = cast("Tensor", found[other]) - share
        return found if self._weights is None else [*found[: len(self._reduced)], *self._unweighted(found)]

    def _unweighted(self, found: list[Tensor | None]) -> Iterator[Tensor | None]:
        """Of unreduced losses: without the weight that each row's derivative has in it."""
        weights = cast("Tensor", self._weights)
        for derivative in found[len(self._reduced) :]:
            if derivative is None:
                yield None
            else:
                rows = cast("Tensor", rows_of(derivative, self.n))
                yield (rows / weights.to(rows).clamp_min(_TINY)[:, None]).reshape(derivative.shape)


def _unheard() -> AbstractContextManager[None]:
    """Inside, no mode hears what is called: one that weighs the step's losses would weigh what is noted of them."""
    return cast("Any", torch)._C.DisableTorchFunction()
