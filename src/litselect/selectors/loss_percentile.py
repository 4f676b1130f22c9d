"""Selective-Backprop's rule: the harder an example is among recent ones, the likelier it is trained.

Jiang et al., 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers", https://arxiv.org/abs/1910.00762
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from litselect.selectors.by_batch import by_batch
from litselect.selectors.fixed_size import inclusion_probabilities, known_empty, systematic_sample
from litselect.selectors.loss_history import LossHistory
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from jaxtyping import Float
    from torch import Tensor


class LossPercentile(Selector):
    r"""Train an example with probability :math:`P = \mathrm{CDF}_R(\mathrm{loss})^\beta`.

    :math:`\mathrm{CDF}_R` is the distribution of the last R losses, so P knows whether a whole batch is harder than
    its predecessors. Over a stationary stream the expected kept fraction is :math:`1 / (1 + \beta)`.

    With ``fixed_size=True`` exactly k rows are drawn, row i with probability :math:`\min(1, c P_i)`, c such that they
    sum to k. What that gives up: a hard batch can't keep more rows than an easy one. With ``fixed_size=False`` every
    row is drawn independently with P, as in the paper, and any number of rows may be chosen.

    `percentiles`, ranks among the last known losses of the whole data set, take the place of the history where they
    are given: :math:`P = \mathrm{percentile}^\beta`. Then neither losses nor a forward pass are needed. Rows without a
    known loss (a percentile of exactly 1) are trained for certain; with a fixed size they come before all others, the
    floor notwithstanding, at random if there are more than k.

    Losses that are equal share the middle of their ranks, so constant losses are all trained with the same
    probability. A batch counts as part of its own history: on the first one P ranks the batch itself.

    Needs: losses (one forward pass), or percentiles.  State: the last R losses and its random stream.
    Cost: O((N + R) log R); no host sync with a fixed size.

    Args:
        keep: expected kept fraction; stands for ``beta = 1 / keep - 1``.
        beta: selectivity, >= 0, in place of `keep`.
        history: R, the number of losses that the distribution is taken over; at least the batch itself.
        fixed_size: draw exactly ``round(keep * N)`` rows rather than each row by itself.
        floor: a minimum of every inclusion probability. With a fixed size the rest is scaled, so that k stays exact;
            with independent draws P is raised to it, so that a little more is kept.
        seed: see `Selector`.
        generator: see `Selector`.

    Raises:
        ValueError: if `keep` and `beta` are both given, or one of the numbers is out of range.

    >>> select = LossPercentile(keep=0.5, seed=0)
    >>> len(select(losses=torch.rand(8)))
    4
    """

    needs = frozenset({"losses"})
    memoryless = True  # of percentiles, which a ledger knows
    _derived = frozenset({"beta"})

    def __init__(
        self,
        keep: float | None = None,
        *,
        beta: float | None = None,
        history: int = 1024,
        fixed_size: bool = True,
        floor: float = 0.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if keep is not None and beta is not None:
            raise ValueError(
                f"Expected `keep` or `beta`, as each follows from the other (beta = 1 / keep - 1), "
                f"but got keep={keep!r} and beta={beta!r}. Drop one."
            )
        if beta is not None and not 0 <= beta < float("inf"):
            raise ValueError(f"Expected a finite beta >= 0, but got {beta!r}. beta=1 keeps half of the examples.")
        if beta is not None:
            keep = 1 / (1 + beta)
        super().__init__(0.5 if keep is None else keep, seed=seed, generator=generator)
        self.beta = 1 / self.keep - 1
        if not 0 <= floor <= self.keep:
            raise ValueError(
                f"`floor` is a minimum of the probability to be trained, of which `keep` is the mean: expected "
                f"0 <= floor <= keep, but got floor={floor!r} and keep={self.keep!r}. floor=keep/5 is a mild one."
            )
        self.floor = floor
        self.fixed_size = fixed_size
        self.probabilistic = not fixed_size
        self.history = history
        self._losses = LossHistory(history)

    @property
    def takes_blocks(self) -> bool:
        """With a fixed size, see `Selector.takes_blocks`."""
        return super().takes_blocks and self.fixed_size

    def uses(self, given: Set[str]) -> frozenset[str]:
        """Percentiles, where there are any; losses otherwise."""
        return frozenset({"percentiles"}) if "percentiles" in given else super().uses(given)

    def select(
        self,
        k: int,
        *,
        losses: Float[Tensor, " batch"] | None = None,
        percentiles: Float[Tensor, " batch"] | None = None,
    ) -> Selection:
        """K rows whose inclusion follows the law, or a Bernoulli draw of each."""
        percentile = self._rank(losses, percentiles)
        n, device = percentile.numel(), percentile.device
        if not self.fixed_size:
            law = (percentile**self.beta).clamp_min(self.floor)
            rows = (self.uniform(n, device) < law).nonzero().squeeze(1)
            return Selection(rows, inclusion=law[rows])
        draws = self.shuffled(n, device), self.uniform(1, device)
        rows, inclusion = self._drawn(k, percentile, percentiles is not None, *draws)
        return Selection(rows, inclusion=inclusion)

    def select_block(
        self,
        k: int,
        places: Sequence[tuple[int, ...]],
        *,
        percentiles: Float[Tensor, "batches batch"],
        losses: Float[Tensor, "batches batch"] | None = None,
    ) -> list[Selection]:
        """Exactly k rows of each batch, by ranks of known losses, beside which these play no part."""
        percentile = self._rank(None, percentiles)
        draws: list[tuple[Tensor, Tensor]] = []
        for place in places:
            self.draw_for(*place)
            draws.append((self.shuffled(percentile.shape[1], percentile.device), self.uniform(1, percentile.device)))
        orders, starts = zip(*draws, strict=True)
        drawn = self._drawn(k, percentile, True, torch.stack(orders), torch.stack(starts))
        return [Selection(rows, inclusion=inclusion) for rows, inclusion in zip(*drawn, strict=True)]

    def _drawn(
        self, k: int, percentile: Tensor, remembered: bool, order: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """K rows of a batch, or of each of several, and their probabilities."""
        first = percentile == 1 if remembered else None  # which no rank of a known loss is
        if first is None or known_empty(first):
            first, hardest = None, percentile.amax(-1, keepdim=True)
        else:
            hardest = percentile.masked_fill(first, 0).amax(-1, keepdim=True)
        hardest = hardest.clamp_min(torch.finfo(percentile.dtype).tiny)
        relative = percentile / hardest  # c takes up any factor; this one prevents underflow
        law = by_batch(lambda values: values**self.beta, relative)
        inclusion = inclusion_probabilities(law, k, self.floor, first)
        rows = systematic_sample(inclusion, k, order, start)
        return rows, inclusion.gather(-1, rows)

    def _rank(self, losses: Tensor | None, percentiles: Tensor | None) -> Tensor:
        if percentiles is not None:
            return percentiles.detach().to(torch.float32 if percentiles.device.type == "mps" else torch.float64)
        assert losses is not None  # `uses` asks for them
        self._losses.append(losses)
        return self._losses.percentile(losses)

    def reset(self) -> None:
        """Forget the losses and the random stream."""
        super().reset()
        self._losses = LossHistory(self.history)

    def state_dict(self) -> dict[str, Any]:
        """The random stream and the history."""
        return {**super().state_dict(), "losses": self._losses.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        super().load_state_dict(state)
        self._losses.load_state_dict(state["losses"])
