"""Let a share of the chosen rows be random.

Auer et al., 2002, "The Nonstochastic Multiarmed Bandit Problem", SIAM Journal on Computing 32(1), for exploration by
mixing in the uniform law.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from litselect.selectors.selection import Selection
from litselect.selectors.wrapper import Wrapper

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from litselect.selectors.selector import Selector


class Mixture(Wrapper):
    r"""Draw the share u of the k rows uniformly from all N; the wrapped selector chooses the others among the rest.

    Every candidate is then trained with a probability of at least :math:`u k / N`, whatever the wrapped selector
    thinks of it. The number of uniform picks is rounded up or down at random, so that the share is exact on average;
    k is exact always.

    If the wrapped selector weighs, so does the mixture: uniform picks stand for themselves, the others for the rest,

    .. math:: w_i = \frac{k}{N} \text{ (uniform)}, \qquad w_i = v_i \frac{k (N - m)}{N (k - m)} \text{ (chosen)},

    for m uniform picks and the weights v of the wrapped selector, which keeps the mean loss unbiased where v does
    (``InfoBatch(normalised=True)``, say). Around a probabilistic selector every row is a uniform pick by itself with
    probability u times `keep`, and k is free.

    Needs: what the wrapped selector needs.  State: its random stream, and the wrapped state.  Cost: O(N log N), no
    host sync of its own around a fixed size.

    Args:
        selector: chooses the others.
        uniform: u, in [0, 1].
        seed: see `Wrapper`.
        generator: see `Selector`.

    Raises:
        ValueError: if `uniform` is outside [0, 1].

    >>> from litselect.selectors import TopLoss
    >>> len(Mixture(TopLoss(keep=0.5), uniform=0.5, seed=0)(losses=torch.arange(8.0)))
    4
    """

    memoryless = True

    def __init__(
        self,
        selector: Selector,
        uniform: float = 0.1,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(selector, seed=seed, generator=generator)
        if not 0 <= uniform <= 1:
            raise ValueError(
                f"`uniform` is the share of the chosen rows that is drawn at random, in [0, 1], but got {uniform!r}. "
                "For one tenth pass 0.1."
            )
        self.share = uniform  # `uniform` is the method that draws

    def select(self, k: int, *, candidates: int, device: torch.device, **scores: Any) -> Selection:
        """Uniform picks and chosen ones."""
        picked, rest = self._pick(k, candidates, device)
        n, m = candidates, len(picked)
        others = len(rest) if self.probabilistic else k - m
        if others == 0 or len(rest) == 0:
            return Selection.of(picked, torch.ones_like(picked, dtype=torch.float32) if self.weighted else None)
        chosen = self._choose_among(rest, others, scores)
        rows = torch.cat([picked, rest[chosen.indices]])
        if chosen.weights is None:
            return Selection.of(rows)
        factor = len(rows) * (n - m) / (n * max(1, len(chosen)))
        uniform_weights = chosen.weights.new_full((m,), len(rows) / n)
        return Selection.of(rows, torch.cat([uniform_weights, chosen.weights * factor]))

    def _pick(self, k: int, n: int, device: torch.device) -> tuple[Int[Tensor, " picked"], Int[Tensor, " rest"]]:
        """The uniform picks and the others (around a fixed size in random order, so that no tie falls to a place)."""
        if self.probabilistic:
            is_picked = self.uniform(n, device) < self.share * self.keep
            return is_picked.nonzero().squeeze(1), (~is_picked).nonzero().squeeze(1)
        rounding = float(torch.rand((), generator=self.generator, dtype=torch.float64))  # on the CPU: no sync
        m = min(k, int(self.share * k + rounding))
        order = self.shuffled(n, device)
        return order[:m], order[m:]

    def __repr__(self) -> str:
        own = "" if self.seed is None else f", seed={self.seed!r}"
        return f"Mixture({self.selector!r}, uniform={self.share!r}{own})"
