"""The losses of a live module as functions of its parameters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from litselect.callbacks.quiet import quiet
from litselect.scoring import CaptureError, LossWeights
from litselect.scoring.batch_lender import BatchLender
from litselect.scoring.meta_gradients import LossObjective
from litselect.scoring.meta_gradients.objective import Buffers
from litselect.scoring.no_trace import NoTrace, TraceMemory
from litselect.scoring.scoring_pass import is_compiled

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.scoring.loss_source import LossFunction


class Declined(Exception):
    """The step returned nothing: it does not train on this batch."""


@dataclass(frozen=True)
class Rows:
    """A part of the candidates, or a held-out batch.

    Args:
        batch: the rows.
        ids: of the candidates, where they are known.
        known: what a scoring pass found.
    """

    batch: Any
    ids: Tensor | None
    known: dict[str, Any]


class StudentObjective(LossObjective):
    """Runs the module's own ``training_step`` on parameters that it is given.

    An example's weight multiplies its loss inside the step, see `LossWeights`; ``example_losses`` and `loss_fn` come
    first where they are there. The held-out loss is what the step returns.

    Args:
        trainer: for the arguments of the step and its precision.
        module: unwrapped.
        loss_fn: ``loss_fn(module, batch) -> Tensor[N]``, if it was given to the callback.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, loss_fn: LossFunction | None) -> None:
        own = getattr(module, "example_losses", None)
        given: LossFunction | None = _own_losses if callable(own) else loss_fn
        half: Literal["bf16"] | None = "bf16" if str(trainer.precision) == "bf16-mixed" else None
        super().__init__(module, given or _no_losses, precision=half)
        self._trainer, self._module, self._given = trainer, module, given
        self.batch_idx = 0  # for the step
        self._memory = TraceMemory()

    def live(self) -> tuple[list[Tensor], Buffers]:
        """The module's parameters that are trained; its buffers and frozen parameters: not to be written to.

        Which ones are trained may change from step to step, as layers are unfrozen.
        """
        named = dict(self._module.named_parameters())
        self.names = [f"module.{name}" for name, p in named.items() if p.requires_grad]
        frozen = {f"module.{name}": p.detach() for name, p in named.items() if not p.requires_grad}
        buffers = {f"module.{name}": buffer for name, buffer in self._module.named_buffers()}
        return [p for p in named.values() if p.requires_grad], {**frozen, **buffers}

    def inner(self, parameters: list[Tensor], buffers: Buffers, batch: Rows, weights: Tensor) -> Tensor:
        """The weighted sum of the losses of `batch`."""
        if self._given is not None:
            return super().inner(parameters, buffers, batch.batch, weights)

        def weighted(_: Any, rows: Any) -> Tensor:
            with LossWeights(len(weights) * weights) as mode:
                loss = self._step(rows)
            if not mode.applied:
                raise CaptureError(
                    f"A rater learns from weights on the examples' losses, but no loss function of torch was called in "
                    f"{type(self._module).__name__}.training_step to weigh. Compute the loss with torch.nn.functional, "
                    "or define `example_losses(self, batch)`."
                )
            return loss

        return self._run(weighted, parameters, buffers, batch.batch, self._inner_batches)

    def outer(self, parameters: list[Tensor], buffers: Buffers, batch: Rows) -> Tensor:
        """The loss of a held-out batch."""
        if self._given is not None:
            return super().outer(parameters, buffers, batch.batch)
        return self._run(lambda _, rows: self._step(rows), parameters, buffers, batch.batch, self._outer_batches)

    @contextmanager
    def unseen(self) -> Generator[None]:
        """Inside, the module may run without a trace."""
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(quiet(self._trainer, self._module))
            stack.enter_context(NoTrace(self._module, training=None, memory=self._memory))
            if is_compiled(self._module):  # compiled graphs are not differentiated twice or forward
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    def _run(
        self,
        function: Callable[[Any, Any], Tensor],
        parameters: list[Tensor],
        buffers: Buffers,
        batch: Any,
        batches: BatchLender,
    ) -> Tensor:
        # Under float16 small gradients vanish, and there is no scaler here: then the look-ahead runs in float32.
        half = str(self._trainer.precision) == "16-mixed"
        with nullcontext() if half else self._trainer.precision_plugin.train_step_context():
            return super()._run(function, parameters, buffers, batch, batches)

    def _step(self, batch: Any) -> Tensor:
        arguments = cast("Any", self._trainer.fit_loop.epoch_loop)._build_kwargs(OrderedDict(), batch, self.batch_idx)
        output: Any = self._module.training_step(*arguments.values())
        if output is None:
            raise Declined
        loss: Any = cast("dict[str, Any]", output).get("loss") if isinstance(output, dict) else output
        if not isinstance(loss, Tensor):
            raise CaptureError(
                f"A look-ahead needs the loss of {type(self._module).__name__}.training_step, but it returned "
                f"{type(loss).__name__}. Return a loss, or define `example_losses(self, batch)`."
            )
        return loss


def _own_losses(module: Any, batch: Any) -> Tensor:
    return module.example_losses(batch)


def _no_losses(module: Any, batch: Any) -> Tensor:
    raise AssertionError("the training step is run instead")
