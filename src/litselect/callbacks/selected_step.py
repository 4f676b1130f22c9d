"""The training step of the chosen rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from litselect.scoring import CaptureError, LossObserver, LossWeights, Scores
from litselect.scoring.loss_in_graph import cross_entropy_in

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.chosen import Chosen
    from litselect.callbacks.example_selection import ExampleSelection
    from litselect.callbacks.finite_guard import FiniteGuard

_MIXING = 10  # batches in which rows that are two examples are looked for


class SelectedStep:
    """Runs the step, weighs the rows' losses, and overhears these where the ledger takes them.

    Args:
        callback: settings and state.
        trainer: whose step it is.
        module: the network, unwrapped.
        guard: notices losses that are not finite.

    Attributes:
        heard: the losses of the newest batch's step; of several closures, those of the first.
    """

    def __init__(
        self, callback: ExampleSelection, trainer: Trainer, module: LightningModule, guard: FiniteGuard
    ) -> None:
        self.heard: Scores | None = None
        self._callback, self._trainer, self._module, self._guard = callback, trainer, module, guard
        self._heard_batches = 0

    def __call__(self, training_step: Callable[..., Any], args: tuple[Any, ...], chosen: Chosen) -> Any:
        """What `training_step` returns for the chosen rows.

        Raises:
            CaptureError: if rows have weights, but no loss is there to be weighed.
        """
        args = (chosen.batch, *args[1:])
        weights = chosen.extras.get("weights")
        if weights is None:
            return _scaled(self._run(training_step, args, chosen), chosen.factor)
        with torch.compiler.set_stance("force_eager"), LossWeights(weights, spare_metrics=True) as mode:
            output = self._run(training_step, args, chosen)
        if not mode.applied and not self._declined(output):
            raise CaptureError(
                f"{self._callback.selector!r} weighs each example's loss, but no loss function of torch was called "
                "in training_step to weigh. Compute the loss with torch.nn.functional or one of torch's loss "
                "modules, or use a selector without weights."
            )
        return _scaled(output, chosen.factor)

    def _run(self, training_step: Callable[..., Any], args: tuple[Any, ...], chosen: Chosen) -> Any:
        memory = self._callback.memory
        if memory is None or not memory.plan.overhears or memory.doubts.reason or self.heard is not None:
            return training_step(*args)
        if memory.loss == "plain" and "weights" not in chosen.extras:
            output = training_step(*args)
            self._hear(cross_entropy_in(_loss_in(output), chosen.rows))
            if self.heard is None and not self._declined(output):
                memory.loss = "any"  # of this batch nothing is known; from the next one on, all is listened to
            return output
        observer = LossObserver(chosen.rows, spare_metrics=True, weights=chosen.extras.get("weights"))
        with observer.before(self._trainer.strategy, "backward"):  # which scales the loss
            output = observer.watch(lambda: training_step(*args))
        if observer.scores is None and not self._declined(output):
            memory.doubts.refuse(
                CaptureError(
                    f"The ledger takes the losses that training computes, but none could be told apart in "
                    f"{type(self._module).__name__}.training_step. Compute the loss with torch.nn.functional or one of "
                    "torch's loss modules, or let a scoring pass compute it: scoring=ScoringPass(), or rescore_every=2."
                )
            )
        self._hear(observer.scores)
        if memory.loss == "unknown" and observer.plain and self._module.automatic_optimization:
            memory.loss = "plain"
        return output

    def _hear(self, heard: Scores | None) -> None:
        self.heard, memory = heard, self._callback.memory
        if heard is None or memory is None:
            return
        self._heard_batches += 1
        if self._heard_batches <= _MIXING:
            memory.doubts.look(heard)
        if self._callback.nonfinite == "raise":
            self._guard.look(heard.losses, "the losses of a training step")

    def _declined(self, output: Any) -> bool:
        """Whether the step chose not to train."""
        return output is None and self._module.automatic_optimization


def _loss_in(output: Any) -> Any:
    return cast("Mapping[str, Any]", output).get("loss") if isinstance(output, Mapping) else output


def _scaled(output: Any, factor: float) -> Any:
    """What a training step returned, its loss times `factor`."""
    if factor == 1 or output is None:
        return output
    if isinstance(output, dict):
        results = cast("dict[str, Any]", output)
        return {**results, "loss": results["loss"] * factor}
    return output * factor
