"""The training step of the chosen rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch

from litselect.scoring import CaptureError, LossObserver, LossWeights, Scores

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
        observer = LossObserver(chosen.rows, spare_metrics=True)
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
        self.heard = heard = observer.scores
        if heard is not None:
            self._heard_batches += 1
            if self._heard_batches <= _MIXING:
                memory.doubts.look(heard)
            if self._callback.nonfinite == "raise":
                self._guard.look(heard.losses, "the losses of a training step")
        return output

    def _declined(self, output: Any) -> bool:
        """Whether the step chose not to train."""
        return output is None and self._module.automatic_optimization


def _scaled(output: Any, factor: float) -> Any:
    """What a training step returned, its loss times `factor`."""
    if factor == 1 or output is None:
        return output
    if isinstance(output, dict):
        results = cast("dict[str, Any]", output)
        return {**results, "loss": results["loss"] * factor}
    return output * factor
