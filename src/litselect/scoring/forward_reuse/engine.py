"""Scores and gradients out of one forward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] - the base of all of them

from litselect.scoring.forward_reuse.boundary import BoundaryCapture
from litselect.scoring.forward_reuse.plan import Plan
from litselect.scoring.forward_reuse.probe import Edges
from litselect.scoring.forward_reuse.recorder import NO_LOSS, Recorder
from litselect.scoring.forward_reuse.replay import Replay
from litselect.scoring.forward_reuse.self_check import check
from litselect.scoring.forward_reuse.unsupported import Diverged, Unsupported
from litselect.scoring.moved_parameters import MovedParameters
from litselect.scoring.no_trace import NoTrace, TraceMemory
from litselect.scoring.scores import Scores

_PLANS = 16  # kinds of batches after which there is no end in sight
_CHECKS = 10  # batches after which parameters without a gradient are believed to have none

Step = Callable[[Any], Any]
"""The training step as a function of the batch."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A forward of N candidates that has not been trained yet.

    Args:
        step: the training step.
        batch: the candidates.
        n: N.
        recorder: what was written down.
        kind: batches of one kind share a plan, given the number of rows.
        trace: what the module and the random streams were before.
    """

    step: Step
    batch: Any
    n: int
    recorder: Recorder
    kind: Any
    trace: NoTrace


class ForwardReuse:
    r"""Records the training step's forward of N candidates, and goes backward through k of them.

    The forward is that of training: dropout is on, batch statistics are those of N rows, in the modes that the modules
    have. `record` leaves no trace. In `replay`, the step itself runs on k rows; up to its first loss (or log, or
    metric) nothing is computed but the graph, and from there on everything. With that, the forward of N rows has
    happened: running statistics are updated once, and the random streams stand where it left them.

    Gradients are those of the selected rows' loss, with the dropout masks of the forward of N.

    Batch normalisation in train mode has to be asked for. Its gradient is then the formula of training over the k rows,
    :math:`dx = \frac{\gamma}{\sigma} (dy - \overline{dy} - \hat x \, \overline{dy\, \hat x})`, with :math:`\hat x`
    and :math:`\sigma` of the N rows, but means over the k. It is the exact gradient of nothing.

    Cost: the memory that plain training of N rows takes. A plan (for each N, k and kind of batch) costs two forwards of
    k rows, its check one of N, and a forward and backward of k.

    Args:
        module: the network.
        batch_norm: whether batch normalisation in train mode is accepted.
        edges: where the network's part ends before the first loss, see `Edges`.
        shadowed: names of the module's attributes that are hidden while recording.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        batch_norm: bool = False,
        edges: Edges | None = None,
        shadowed: tuple[str, ...] = (),
    ) -> None:
        self.recording: Recording | None = None
        self._module, self._batch_norm = module, batch_norm
        self._edges: Edges = edges or (lambda reach: nullcontext())
        self._shadowed = shadowed
        self._plans: dict[Any, Plan] = {}
        self._unsettled: dict[Any, int] = {}
        self._parameters: list[nn.Parameter] = []
        self._versions = 0
        self._moved = MovedParameters()

    def record(self, step: Step, batch: Any, n: int) -> Scores | None:
        """Run `step` on N candidates.

        Returns:
            What a scoring pass would, or ``None`` where the step returned ``None``.

        Raises:
            Unsupported: if this forward can't be re-used. There is no trace of it then, either.
        """
        self.drop()
        self._look_for_batch_norm()
        self._parameters = list(self._module.parameters())  # once: the walk takes longer than looking at them
        versions = self._versions_now()
        trace = NoTrace(self._module, training=None, memory=TraceMemory(moved=self._moved))
        trace.__enter__()
        recorder = Recorder(self._module)
        capture, ended = BoundaryCapture(n, recorder), False
        hooks = torch.autograd.graph.saved_tensors_hooks(recorder.pack, recorder.unpack)
        try:
            with recorder, hooks, self._edges(capture.reach):
                losses = capture.run(lambda: step(batch))
            recorder.end()
            ended = True
        except Exception as error:
            found = f"recording it raised {type(error).__name__}: {error}"
            raise Unsupported(found if recorder.frozen else f"{NO_LOSS} ({found})") from None
        finally:
            trace.put_back()
            if self._versions_now() != versions:
                recorder.fail("the forward changes parameters")
            if not ended:
                recorder.free()
        if losses is None:
            recorder.free()
            return None
        if recorder.failure is not None:
            raise Unsupported(recorder.failure)
        kind = (n, tuple(map(id, recorder.ops)), tuple(tensor.shape for tensor in recorder.saved))
        self.recording, self._versions = Recording(step, batch, n, recorder, kind, trace), versions
        return Scores(losses, capture.logits, capture.targets, capture.others)

    def is_prepared(self, k: int) -> bool:
        """Whether a replay of `k` rows has been planned and checked."""
        key = k, self.recording.kind if self.recording is not None else None
        return key in self._plans and key not in self._unsettled

    def prepare(self, rows: Tensor) -> None:
        """Plan the replay of so many rows, and check it, unless that is done. Leaves no trace.

        Args:
            rows: ``[k]``, ascending, 2 <= k < N; the plan holds for any others.

        Raises:
            Unsupported: if there is no plan, or the replay gives another gradient than k rows would.
        """
        assert self.recording is not None
        recording = self.recording
        key = len(rows), recording.kind
        try:
            if key not in self._plans:
                if len(self._plans) == _PLANS:
                    raise Unsupported(f"batches differ in shape, operations or rows: {_PLANS} kinds were seen")
                self._plans[key] = Plan.make(
                    recording.recorder,
                    recording.step,
                    recording.batch,
                    recording.n,
                    rows,
                    self._edges,
                    recording.trace.put_back,
                )
                self._unsettled[key] = _CHECKS
            if key in self._unsettled:
                settled = check(self._plans[key], recording, rows, self._module)
                self._unsettled[key] -= 1
                if settled or not self._unsettled[key]:
                    del self._unsettled[key]
        except Diverged as error:
            raise Unsupported(f"a replay differs: {error}") from None
        except Unsupported:
            raise
        except Exception as error:
            raise Unsupported(f"planning a replay raised {type(error).__name__}: {error}") from None
        finally:
            recording.trace.put_back()

    def replay(self, call: Callable[[], Any], rows: Tensor) -> Any:
        """What `call`, the training step on `rows` of the batch, returns; its graph leads through the recording.

        The recording is given up: the graph alone holds it, until it has gone backward.

        Args:
            call: the step. It is called again, for real, should it leave the plan.
            rows: ``[k]``, ascending.

        Raises:
            Unsupported: if it left the plan. All is then as before.
        """
        recording, self.recording = self.recording, None
        assert recording is not None
        if self._versions_now() != self._versions:
            recording.recorder.free()
            raise Unsupported("parameters change between the scoring and the training of a batch")
        try:
            return Replay(self._plans[len(rows), recording.kind], recording.recorder, rows).run(call)
        except Diverged as error:
            self._put_back_now(recording.trace)
            raise Unsupported(f"a replay differs: {error}") from None
        finally:
            recording.recorder.free()  # from here on the graph alone holds what it needs

    def _put_back_now(self, trace: NoTrace) -> None:
        """Undo the replay, but not what others have done to the module since the recording: shadows, private names."""
        own = self._module.__dict__
        kept = {name: value for name, value in own.items() if name in self._shadowed or name.startswith("_")}
        trace.put_back()
        for name in self._shadowed:
            own.pop(name, None)
        own.update(kept)

    def drop(self) -> None:
        """Free the recording."""
        if self.recording is not None:
            self.recording.recorder.free()
            self.recording = None

    def _look_for_batch_norm(self) -> None:
        if not self._batch_norm and any(
            isinstance(child, _BatchNorm) and (child.training or child.running_mean is None)
            for child in self._module.modules()
        ):
            raise Unsupported(
                "it has batch normalisation in train mode, whose gradient would be an approximation (accept that with "
                'reuse_forward="batchnorm")'
            )

    def _versions_now(self) -> int:
        return sum(parameter._version for parameter in self._parameters)
