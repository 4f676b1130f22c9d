"""One forward for scoring and for training, in Lightning's loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from litselect.callbacks.quiet import quiet
from litselect.scoring import ScoringPass
from litselect.scoring.batch_lender import BatchLender, in_own_containers
from litselect.scoring.forward_reuse import ForwardReuse, Unsupported
from litselect.scoring.rows import count_rows
from litselect.scoring.scores import Scores
from litselect.scoring.scoring_pass import is_compiled

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.example_selection import ExampleSelection
    from litselect.selectors import Selection

ReuseForward = bool | Literal["batchnorm"]
_LOGS = ("log", "log_dict")
_SHADOWED = (*_LOGS, "print", "manual_backward")  # by `quiet`, while a forward is recorded


class ReusedForward:
    """Scores by recording the training step's forward, and lets the training step go backward through it.

    Where that can't be done, a warning says why, once, and scoring and training go on as without: the rest of this fit,
    and of those that resume from its checkpoints.

    Args:
        callback: settings and counters.
        trainer: the Trainer.
        module: the network, unwrapped.
        fewest: how many rows are trained at least.
    """

    def __init__(self, callback: ExampleSelection, trainer: Trainer, module: LightningModule, fewest: int) -> None:
        self._callback, self._trainer, self._module, self._fewest = callback, trainer, module, fewest
        self._batches = BatchLender()
        self._engine = ForwardReuse(
            module,
            batch_norm=callback.reuse_forward == "batchnorm",
            edges=self._edges,
            shadowed=_SHADOWED,
        )

    def examine(self, module: LightningModule, batch: Any, n: int, *, step: Callable[[Any], Any], **source: Any) -> Any:
        """As `ScoringPass.examine`, within a context in which the module is quiet."""
        k = max(self._callback.selector.count(n), min(self._fewest, n))
        if self._callback.reuse_refused or not 2 <= k < n:
            return self._callback.scoring.examine(module, batch, n, step=step, **source)
        try:
            return self._record(batch, n, k, step)
        except Unsupported as reason:
            self._refuse(str(reason))
        return self._callback.scoring.examine(module, batch, n, step=step, **source)

    def verify(self, module: LightningModule, batch: Any, n: int, losses: torch.Tensor, **source: Any) -> bool:
        """As `ScoringPass.verify`."""
        scoring = self._callback.scoring
        if self._engine.recording is not None:
            scoring = ScoringPass("train", check=scoring.check)  # whose losses are no yardstick for a check
        return scoring.verify(module, batch, n, losses, **source)

    def around(self, training_step: Callable[..., Any], selection: Selection | None, n: int) -> Callable[..., Any]:
        """`training_step` on the rows of `selection`, out of the recorded forward of `n` if there is one."""
        if self._engine.recording is None:
            return training_step
        if selection is None or not 2 <= len(selection) < n or self._engine.recording.n != n:
            self._engine.drop()
            return training_step
        rows = selection.indices.to(self._module.device)

        def step(*args: Any) -> Any:
            if self._engine.recording is None:  # an optimizer that calls its closure again
                return training_step(*args)
            try:
                if not self._engine.is_prepared(len(rows)):
                    with quiet(self._trainer, self._module):
                        self._engine.prepare(rows)
                result = self._engine.replay(lambda: training_step(*args), rows)
                self._callback.counters.reused += n
            except Unsupported as reason:
                self._engine.drop()
                self._refuse(str(reason))
                return training_step(*args)
            return result

        return step

    def drop(self) -> None:
        """Free what is left of the recording."""
        self._engine.drop()

    def _record(self, batch: Any, n: int, k: int, step: Callable[[Any], Any]) -> Scores | None:
        if self._trainer.strategy.model is not self._module:
            raise Unsupported(f"{type(self._trainer.strategy).__name__} wraps the module")
        context = self._trainer.precision_plugin.train_step_context

        def in_precision(candidates: Any) -> Any:
            torch.clear_autocast_cache()  # every run is to convert the parameters, as the training step will
            with context():
                return step(in_own_containers(candidates, count_rows(candidates, n)))

        with self._batches.lent(batch, n) as own:
            scores = self._engine.record(in_precision, own, n)
        if self._batches.writes:
            raise Unsupported("its training_step writes to its batch in place")
        if scores is not None:
            self._engine.prepare(torch.arange(k, device=self._module.device) * n // k)
        return scores

    def _refuse(self, reason: str) -> None:
        self._engine.drop()
        self._callback.reuse_refused = reason
        warnings.warn(
            f"reuse_forward can't be applied to {type(self._module).__name__}: {reason}. Training goes on with a "
            "scoring pass of its own, as with reuse_forward=False.",
            stacklevel=2,
        )

    @contextmanager
    def _edges(self, reach: Callable[[], None]) -> Generator[None]:
        """Inside, what logs or updates a metric ends the part of the network: it is to see the chosen rows alone."""
        owners: list[tuple[Any, str]] = [(self._module, name) for name in _LOGS]
        for child in self._module.modules():
            if all(callable(getattr(child, name, None)) for name in ("update", "compute", "reset", "forward")):
                owners += [(child, "update"), (child, "forward")]
        before = [(owner.__dict__, name, owner.__dict__.get(name)) for owner, name in owners]
        try:
            for owner, name in owners:
                owner.__dict__[name] = _reaching(reach, getattr(owner, name))
            yield
        finally:
            for attributes, name, value in before:
                attributes.pop(name, None)
                if value is not None:
                    attributes[name] = value


def _reaching(reach: Callable[[], None], method: Callable[..., Any]) -> Callable[..., Any]:
    def reach_then_call(*args: Any, **kwargs: Any) -> Any:
        reach()
        return method(*args, **kwargs)

    return reach_then_call


def check_reuse(callback: ExampleSelection, module: LightningModule) -> None:
    """Refuse settings under which no forward could be re-used.

    Raises:
        ValueError: with the invariant, what was received and the remedy.
    """
    if not callback.reuse_forward:
        return
    name, plan, scoring = type(callback).__name__, callback.plan, callback.scoring
    reason = None
    if callback.reuse_forward not in (True, "batchnorm"):
        raise ValueError(f'Expected reuse_forward to be True, False or "batchnorm", got {callback.reuse_forward!r}.')
    if is_compiled(module):
        reason = f"{type(module).__name__} is compiled, and compiled code computes unseen"
    elif not module.automatic_optimization:
        reason = f"{type(module).__name__} optimizes manually, so that its step can go backward more than once"
    elif plan.recalls:
        reason = "scoring='ledger', rescore_every, max_age and every=n select without a forward of all candidates"
    elif callback.refill:
        reason = "refill=True trains rows later than they were scored"
    elif callback.ratings is not None:
        reason = "ratings come from elsewhere"
    elif callback.loss_fn is not None or callable(getattr(module, "example_losses", None)):
        reason = "loss_fn and example_losses score by a forward of their own"
    elif callback.selector.probabilistic:
        reason = f"{callback.selector!r} chooses any number of rows, each of which would need a plan"
    elif callback.auto is not None or not scoring.is_plain:
        asked = "'auto'" if callback.auto is not None else repr(scoring)
        reason = f"the scores are those of the training step's own forward, but scoring={asked} asks for another"
    if reason is not None:
        raise ValueError(
            f"{name}(reuse_forward={callback.reuse_forward!r}) trains out of the forward that scores all candidates of "
            f"a batch, but {reason}. Use reuse_forward=False, or change that."
        )
