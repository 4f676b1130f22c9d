"""Where the losses of a scoring pass come from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring.capture_check import REMEDY
from litselect.scoring.loss_capture import CaptureError, LossCapture
from litselect.scoring.scores import Scores

LossFunction = Callable[[Any, Any], Tensor]
"""``loss_fn(module, batch) -> Tensor[N]``."""

LossSource = Callable[[Any, int], "Scores | None"]
"""The scores of a batch of so many rows; None where the step declined it."""


def loss_source(module: nn.Module, step: Callable[[Any], Any] | None, loss_fn: LossFunction | None) -> LossSource:
    """Where the losses of `module` come from.

    Raises:
        CaptureError: if it has none per example.
    """
    own = getattr(module, "example_losses", None)
    if callable(own):
        name = f"{type(module).__name__}.example_losses"
        return lambda batch, n: Scores(_validated(own(batch), n, name))
    if loss_fn is not None:
        return lambda batch, n: Scores(_validated(loss_fn(module, batch), n, "loss_fn"))
    if step is None:
        raise CaptureError(f"{type(module).__name__} has no per-example loss. {REMEDY}")
    counts: list[Any] = []  # chunks of one batch have them in common
    return lambda batch, n: _capture(step, batch, n, counts)


def proxy_source(proxy: nn.Module, loss_fn: LossFunction | None) -> LossSource:
    """Where the losses of a proxy come from: as those of a module, or from the class scores that it computes."""
    step = cast("Any", proxy).training_step if hasattr(proxy, "training_step") else None
    if step is not None or loss_fn is not None or callable(getattr(proxy, "example_losses", None)):
        return loss_source(proxy, None if step is None else lambda batch: _run(step, batch), loss_fn)
    return lambda batch, n: _classify(proxy, batch, n)


def proxy_loss(proxy: nn.Module, batch: Any, loss_fn: LossFunction | None) -> Tensor:
    """The mean loss that a proxy is trained by, with its graph: from where `proxy_source` takes its scores."""
    own = getattr(proxy, "example_losses", None)
    if callable(own):
        return cast("Tensor", own(batch)).mean()
    if loss_fn is not None:
        return loss_fn(proxy, batch).mean()
    if hasattr(proxy, "training_step"):
        output = _run(cast("Any", proxy).training_step, batch)
        return cast("Tensor", output["loss"] if isinstance(output, dict) else output)
    return F.cross_entropy(proxy(batch[0]).float(), batch[1])


def _run(step: Callable[..., Any], batch: Any) -> Any:
    return step(batch, 0) if len(inspect.signature(step).parameters) > 1 else step(batch)


def _classify(proxy: nn.Module, batch: Any, n: int) -> Scores:
    """The cross-entropy of ``(inputs, classes)``."""
    inputs, targets = _pair(batch)
    logits: Any = None if inputs is None else proxy(inputs)
    if not (_has_shape(logits, 2, n) and _has_shape(targets, 1, n) and not targets.is_floating_point()):
        raise CaptureError(
            "A proxy that is a plain network is taken for a classifier of batches (inputs, classes), but "
            f"{type(proxy).__name__} got a {type(batch).__name__} and made {_shown(logits)} of it. Define "
            "`example_losses(self, batch)` on the proxy, make it a LightningModule, or pass loss_fn(proxy, batch)."
        )
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return Scores(losses.detach(), logits.detach(), targets)


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (list, tuple)) and len(parts := cast("list[Any]", batch)) == 2:
        return parts[0], parts[1]
    return None, None


def _has_shape(value: Any, dimensions: int, n: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == dimensions and len(value) == n


def _shown(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "nothing"


def _capture(step: Callable[[Any], Any], batch: Any, n: int, counts: list[Any]) -> Scores | None:
    capture = LossCapture(n, counts)
    try:
        losses = capture.run(lambda: step(batch))
        return None if losses is None else Scores(losses, capture.logits, capture.targets, capture.others)
    except CaptureError as error:
        raise CaptureError(f"{error} {REMEDY}") from None
    except Exception as error:
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"Raised in the scoring pass, which runs training_step without gradients. {REMEDY}")
        raise


def _validated(losses: Any, n: int, source: str) -> Tensor:
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        got = f"a tensor of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"{source} must return one loss per example, a tensor of shape ({n},), but returned {got}. "
            'Compute the loss with reduction="none" and average over everything but the first dimension.'
        )
    return losses.detach().to(torch.float32)
