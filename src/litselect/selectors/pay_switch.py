"""Whether importance sampling pays for its scores.

Katharopoulos and Fleuret, 2018, "Not All Samples Are Created Equal", section 3.3, https://arxiv.org/abs/1803.00942
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_log = logging.getLogger(__name__)


class PaySwitch:
    r"""On while the gain :math:`\tau` of importance sampling, averaged over batches, exceeds a threshold.

    .. math:: \tau = \left(1 - \frac{\lVert p - u \rVert^2}{\lVert p \rVert^2}\right)^{-1/2}
        = \frac{\sqrt{\mathrm{mean}(s^2)}}{\mathrm{mean}(s)}, \qquad p_i = \frac{s_i}{\sum_j s_j},\ u_i = \frac1N

    is 1 where all scores s are equal. The moving average is corrected for its start, so one batch gives a first answer.

    The answer comes as a tensor on the device of the scores; the host learns it from `on`, for which CUDA copies it
    without blocking.

    Args:
        smoothing: share of the average that a new batch leaves, in [0, 1).
        probe_every: while off, every so many-th batch is to be scored, >= 1.

    Raises:
        ValueError: if one of them is out of range.

    >>> switch = PaySwitch(smoothing=0.9, probe_every=16)
    >>> switch.update(torch.tensor([0.0, 0.0, 0.0, 1.0]), threshold=1.5), switch.tau
    (tensor(True), 2.0)
    """

    def __init__(self, smoothing: float, probe_every: int) -> None:
        if not (0 <= smoothing < 1 and probe_every >= 1):
            raise ValueError(
                f"Expected 0 <= smoothing < 1 (the share of an average that a new batch leaves) and probe_every >= 1, "
                f"but got smoothing={smoothing!r} and probe_every={probe_every!r}. Use 0.9 and 16."
            )
        self._smoothing = smoothing
        self._probe_every = probe_every
        self._sum: Tensor | None = None  # of (1 - smoothing) * smoothing^age * tau
        self._updates = 0
        self._batches = 0
        self._unscored = 0
        self._on = False
        self._answer: tuple[Tensor, torch.cuda.Event | None] | None = None
        self.switched_at: list[int] = []
        """Numbers of the batches, counted from 0, whose scores switched it on, off, on, ..."""

    def skip(self) -> None:
        """A batch passed without scores."""
        self._settle()
        self._batches += 1
        self._unscored += 1

    def update(self, scores: Float[Tensor, " batch"], threshold: float) -> Bool[Tensor, ""]:
        """Take in the scores of a batch; whether the average exceeds `threshold` now."""
        self._settle()
        mean = scores.mean()
        tau = torch.where(mean > 0, scores.square().mean().sqrt() / mean, torch.ones_like(mean))
        before = torch.zeros_like(tau) if self._sum is None else self._sum.to(tau)
        self._sum = self._smoothing * before + (1 - self._smoothing) * tau
        self._updates += 1
        self._batches += 1
        self._unscored = 0
        # Equal scores give 1 but for rounding, which must not pass for a gain.
        answer = self._sum > threshold * (1 - self._smoothing**self._updates) * (1 + 1e-6)
        self._answer = _on_its_way_to_the_host(answer)
        return answer

    def _settle(self) -> None:
        """Learn the last answer; a change is logged and noted."""
        if self._answer is None:
            return
        flag, copied = self._answer
        if copied is not None:
            copied.synchronize()
        self._answer = None
        if bool(flag) != self._on:
            self._on = not self._on
            self.switched_at.append(self._batches - 1)
            _log.info("Importance sampling switches %s at batch %d.", "on" if self._on else "off", self.switched_at[-1])

    @property
    def on(self) -> bool:
        """The last answer."""
        self._settle()
        return self._on

    @property
    def due(self) -> bool:
        """Whether the next batch is to be scored."""
        return self.on or self._updates == 0 or self._unscored >= self._probe_every - 1

    @property
    def tau(self) -> float | None:
        """The average, or ``None`` before the first scores. A host sync on an accelerator."""
        return None if self._sum is None else round(float(self._sum) / (1 - self._smoothing**self._updates), 6)

    def state_dict(self) -> dict[str, Any]:
        """The average, the last answer and the counts."""
        self._settle()
        counts = {"updates": self._updates, "batches": self._batches, "unscored": self._unscored}
        total = None if self._sum is None else self._sum.cpu().clone()
        return {**counts, "sum": total, "on": self._on, "switched_at": [*self.switched_at]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._sum = None if state["sum"] is None else state["sum"].clone()
        self._updates, self._batches, self._unscored = state["updates"], state["batches"], state["unscored"]
        self._on, self._answer, self.switched_at = state["on"], None, [*state["switched_at"]]


def _on_its_way_to_the_host(flag: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if not flag.is_cuda:
        return flag, None
    host = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
