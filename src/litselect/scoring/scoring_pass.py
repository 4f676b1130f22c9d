"""The forward pass that yields the scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from litselect.scoring.capture_check import REMEDY, CaptureCheck
from litselect.scoring.loss_capture import CaptureError, LossCapture
from litselect.scoring.no_trace import NoTrace, TraceMemory, device_of, modules_of
from litselect.scoring.rows import take_rows
from litselect.scoring.scores import Scores

if TYPE_CHECKING:
    from jaxtyping import Float

LossFunction = Callable[[Any, Any], Tensor]
"""``loss_fn(module, batch) -> Tensor[N]``."""

_Source = Callable[[Any, int], "Scores | None"]


class ScoringPass:
    """One loss per candidate, from a forward pass that leaves no trace in the module.

    The losses come from the first of: the module's ``example_losses(batch)``; a ``loss_fn(module, batch)``; the
    unmodified training step, by capture (see `LossCapture`). Captured losses are checked once: other rows' content
    must not change a row's loss beyond a common factor.

    Cost: one forward pass over the candidates, about a third of a training step in the same precision.

    Args:
        mode: ``"eval"`` scores each example independently of the others; ``"train"`` with dropout and batch
            statistics, whose running averages are put back.
        precision: ``"bf16"`` runs the pass under bfloat16 autocast; ``None`` in the precision of training.
        chunk: score so many rows at a time, for want of memory; halved whenever it runs out.
        check: whether captured losses are checked.

    Raises:
        ValueError: if `mode` or `precision` is none of these, or `chunk` is not positive.
    """

    def __init__(
        self,
        mode: Literal["eval", "train"] = "eval",
        *,
        precision: Literal["bf16"] | None = None,
        chunk: int | None = None,
        check: bool = True,
    ) -> None:
        if mode not in ("eval", "train"):
            raise ValueError(f'Expected mode to be "eval" or "train", but got {mode!r}.')
        if precision not in (None, "bf16"):
            raise ValueError(f'Expected precision to be None (that of training) or "bf16", but got {precision!r}.')
        self.mode = mode
        self.precision: Literal["bf16"] | None = precision
        if chunk is not None and chunk < 1:
            raise ValueError(f"Expected chunk to be a number of rows >= 1, or None for all, but got {chunk!r}.")
        self.chunk = chunk
        self._halved = False
        self.check = check

    def __call__(self, module: nn.Module, batch: Any, n: int, **source: Any) -> Float[Tensor, " batch"] | None:
        """The losses alone: ``[N]`` float32. Arguments and errors are those of `examine`."""
        scores = self.examine(module, batch, n, **source)
        return None if scores is None else scores.losses

    def examine(
        self,
        module: nn.Module,
        batch: Any,
        n: int,
        *,
        step: Callable[[Any], Any] | None = None,
        loss_fn: LossFunction | None = None,
        gradients: bool = False,
        memory: TraceMemory | None = None,
    ) -> Scores | None:
        """Score `batch`.

        Args:
            module: the network, unwrapped.
            batch: N examples, on the module's device.
            n: N.
            step: the training step as a function of the batch, for capture.
            loss_fn: ``loss_fn(module, batch) -> Tensor[N]``, in place of capture.
            gradients: whether the step could touch gradients (manual optimization).
            memory: what the pass before, through the same module, left for this one to use again.

        Returns:
            The losses, and from capture also logits and targets where the step computes a cross-entropy; ``None`` where
            the training step returned ``None``.

        Raises:
            CaptureError: if there is no per-example loss to be had.
            ValueError: if ``example_losses`` or `loss_fn` returns anything but N numbers.
        """
        source = self._source(module, step, loss_fn)
        while True:
            try:
                with self.without_trace(module, gradients, memory):
                    if self.chunk is None or self.chunk >= n:
                        return source(batch, n)
                    return _in_chunks(source, batch, n, self.chunk)
            except torch.OutOfMemoryError:
                if min(n, self.chunk or n) == 1:
                    raise
            self._halve_chunk(n)  # not sooner: the error holds what the failed pass had in memory

    def _source(self, module: nn.Module, step: Callable[[Any], Any] | None, loss_fn: LossFunction | None) -> _Source:
        """Where the losses come from, as a function of the batch and N."""
        own = getattr(module, "example_losses", None)
        if callable(own):
            name = f"{type(module).__name__}.example_losses"
            return lambda batch, n: Scores(_validated(own(batch), n, name))
        if loss_fn is not None:
            return lambda batch, n: Scores(_validated(loss_fn(module, batch), n, "loss_fn"))
        if step is None:
            raise CaptureError(f"{type(module).__name__} has no per-example loss. {REMEDY}")
        return lambda batch, n: _capture(step, batch, n)

    def _halve_chunk(self, n: int) -> None:
        self.chunk = -(-min(n, self.chunk or n) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._halved:
            self._halved = True
            warnings.warn(
                f"The scoring pass ran out of memory with {n} rows and goes on with chunks of {self.chunk} or fewer. "
                f"Pass ScoringPass(chunk={self.chunk}) to begin with them.",
                stacklevel=2,
            )

    def verify(self, module: nn.Module, batch: Any, n: int, losses: Float[Tensor, " batch"], **source: Any) -> bool:
        """Check that the captured `losses` are those of their own rows, and all of them, by replacing half of the rows.

        Not a permutation of the rows: noise that the step draws stays with its position and would look like a fault.

        Returns:
            Whether this settles it. Losses that are all alike (an output layer that starts from zero) and two rows
            tell nothing, fewer than eight rows little: then check another batch.

        Raises:
            CaptureError: if a row's loss changed with the content of other rows, or if a part of the step's loss that
                was not captured changed with the rows.
        """
        captured = not callable(getattr(module, "example_losses", None)) and source.get("loss_fn") is None
        if not self.check or not captured:
            return True
        other = ScoringPass("eval", precision=self.precision, chunk=self.chunk)
        before = other(module, batch, n, **source) if self.mode == "train" else losses
        if before is None:
            return False
        check = CaptureCheck(batch, n, before, 0.05 if self.precision == "bf16" else 0.02)
        settled = check.rows(lambda batch: other(module, batch, n, **source))
        gradients = source.get("gradients", False)
        check.whole(source["step"], min(n, self.chunk or n), lambda: other.without_trace(module, gradients))
        return settled

    def without_trace(
        self, module: nn.Module, gradients: bool, memory: TraceMemory | None = None
    ) -> AbstractContextManager[Any]:
        """A context in which `module` can be run in this pass's mode and precision, and is then as it was."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            guard = NoTrace(module, training=self.mode == "train", gradients=gradients, memory=memory)
            modules = stack.enter_context(guard).modules
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(device_of(modules).type, torch.bfloat16))
            if is_compiled(module, modules):
                # Capture reads the step's own Python, which a compiled graph no longer runs.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            return stack.pop_all()

    def __repr__(self) -> str:
        return f"ScoringPass({self.mode!r}, precision={self.precision!r})"


def _in_chunks(source: _Source, batch: Any, n: int, size: int) -> Scores | None:
    """Score `size` rows at a time. The last chunk goes back to have as many: a sum is scaled by the rows it is over."""
    scores: list[Scores] = []
    for start in range(0, n, size):
        first = min(start, n - size)
        rows = torch.arange(first, first + size)
        part = source(take_rows(batch, rows, n), size)
        if part is None:
            return None
        scores.append(part.rows(start - first))
    return Scores.join(scores)


def _capture(step: Callable[[Any], Any], batch: Any, n: int) -> Scores | None:
    capture = LossCapture(n)
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
    return losses.detach().float()


def is_compiled(module: nn.Module, modules: list[nn.Module] | None = None) -> bool:
    """Whether any part was compiled: by Lightning, as a wrapper, or in place. `modules` are all parts, if known."""
    return getattr(module, "_compiler_ctx", None) is not None or any(
        "_orig_mod" in child._modules or cast("Any", child)._compiled_call_impl is not None
        for child in (modules_of(module) if modules is None else modules)
    )
