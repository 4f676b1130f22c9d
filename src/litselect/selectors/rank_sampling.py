"""Draw examples by the rank of their loss, with a pressure that is released as training goes on.

Loshchilov and Hutter, 2015, "Online Batch Selection for Faster Training of Neural Networks",
https://arxiv.org/abs/1511.06343
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any, Literal

import torch

from litselect.selectors.fixed_size import inclusion_probabilities, systematic_sample
from litselect.selectors.ranks import mid_ranks
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class RankSampling(Selector):
    r"""Draw k rows with probabilities that fall off exponentially with the rank of the loss.

    .. math:: \pi_i = \min(1, c\, s^{u_i}), \qquad s(t) = s_0 (s_1 / s_0)^t

    where :math:`u_i` in [0, 1] is the rank of the example's last known loss among those of the whole data set, 1 the
    highest, so that the hardest example is s times as likely as the easiest; in the paper's notation
    :math:`p_i \propto \exp(-\log(s)/N)^i` with i = 1 for the hardest. The pressure s falls from :math:`s_0` to
    :math:`s_1` while t goes from 0 to 1: over `steps` calls, or with the `progress` of the training.

    Rows without a known loss (a percentile of exactly 1) come before all others, at random if there are more than k.

    The paper builds each batch from the whole data set. Here the law chooses k among the N candidates that were
    loaded: no probability exceeds 1, which tempers a high pressure where `keep` is large.

    Needs: percentiles (no forward pass); losses (one forward pass) with ``within="batch"``.  State: the number of calls
    and its random stream.  Cost: O(N log N), no host sync.

    Args:
        keep: fraction of the candidates that is trained.
        pressure: :math:`s_0`, at least 1, where all are equally likely.
        pressure_end: :math:`s_1`, at least 1.
        steps: calls that the annealing takes, after which the pressure stays; ``None`` follows `progress`.
        within: ``"dataset"`` ranks among all examples; ``"batch"`` ranks losses among the candidates, for which no
            memory is needed, and which can't tell a hard batch from an easy one.
        seed: see `Selector`.
        generator: see `Selector`.

    Raises:
        ValueError: if one of the arguments is out of range.

    >>> select = RankSampling(keep=0.5, seed=0)
    >>> len(select(percentiles=torch.rand(8)))
    4
    """

    def __init__(
        self,
        keep: float = 0.5,
        *,
        pressure: float = 100.0,
        pressure_end: float = 1.0,
        steps: int | None = None,
        within: Literal["dataset", "batch"] = "dataset",
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(keep, seed=seed, generator=generator)
        if not (1 <= pressure < float("inf") and 1 <= pressure_end < float("inf")):
            raise ValueError(
                "The pressure is how much likelier the hardest example is than the easiest: expected finite numbers "
                f">= 1, but got pressure={pressure!r} and pressure_end={pressure_end!r}. 100 falling to 1 is mild."
            )
        if (steps is not None and steps < 1) or within not in ("dataset", "batch"):
            raise ValueError(
                f'Expected steps >= 1 (or None) and within="dataset" or "batch", but got {steps!r} and {within!r}. '
                "Leave `steps` out to follow the training's progress."
            )
        self.pressure, self.pressure_end, self.steps, self.within = pressure, pressure_end, steps, within
        self.needs = frozenset({"percentiles"} if within == "dataset" else {"losses"})
        self.remembers = within == "dataset"
        self.follows_progress = steps is None and pressure != pressure_end
        self._instead = ', or use within="batch", which ranks the losses of the batch' if within == "dataset" else ""
        self._calls = 0

    @property
    def current_pressure(self) -> float:
        """S of the next call."""
        done = self.progress if self.steps is None else self._calls / self.steps
        return self.pressure * (self.pressure_end / self.pressure) ** min(1.0, max(0.0, done))

    def select(
        self,
        k: int,
        *,
        losses: Float[Tensor, " batch"] | None = None,
        percentiles: Float[Tensor, " batch"] | None = None,
    ) -> Selection:
        """K rows whose inclusion follows the law."""
        scores = percentiles if self.within == "dataset" else losses
        assert scores is not None  # it is needed
        if self.within == "batch":
            rank = mid_ranks(scores)
        else:
            rank = scores.detach().to(torch.float32 if scores.device.type == "mps" else torch.float64)
        law = log(self.current_pressure) * (rank - rank.amax())
        self._calls += 1
        inclusion = inclusion_probabilities(law.exp(), k, 0.0, first=rank == 1)  # no rank of a known loss is 1
        rows = systematic_sample(inclusion, k, self.shuffled(len(rank), rank.device), self.uniform(1, rank.device))
        return Selection(rows, inclusion=inclusion.index_select(0, rows))

    def reset(self) -> None:
        """Begin the annealing and the random stream anew."""
        super().reset()
        self._calls = 0

    def state_dict(self) -> dict[str, Any]:
        """The random stream and the number of calls."""
        return {**super().state_dict(), "calls": self._calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        super().load_state_dict(state)
        self._calls = state["calls"]
