"""Draw examples by the size of their gradient, weigh them so that the mean gradient stays what it is.

Katharopoulos and Fleuret, 2018, "Not All Samples Are Created Equal: Deep Learning with Importance Sampling",
https://arxiv.org/abs/1803.00942; Horvitz and Thompson, 1952, for draws without replacement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from litselect.selectors.fixed_size import inclusion_probabilities, systematic_sample
from litselect.selectors.logit_gradient import logit_gradients
from litselect.selectors.pay_switch import PaySwitch
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
    from torch import Tensor


class ImportanceSampling(Selector):
    r"""Draw k distinct rows in proportion to :math:`s_i = \lVert \mathrm{softmax}(z_i) - y_i \rVert`, with weights.

    .. math:: \pi_i = \min(1, c\, s_i), \qquad \sum_i \pi_i = k, \qquad w_i = \frac{k}{N \pi_i}

    so that the mean of :math:`w_i g_i` over the chosen rows has the mean gradient of all N as its expectation.
    No weight exceeds `max_weight`: :math:`\pi_i` has a floor instead, and what that leaves of k is dealt out in
    proportion to :math:`s_i`, which costs no bias.

    **On only while it pays**: while the average of :math:`\tau` (see `PaySwitch`) exceeds :math:`(s N + 3 k) / (3 k)`,
    where a score costs s and training a row 3 forward passes. Otherwise k random rows are chosen, all of weight 1,
    unscored but for the first and then every `probe_every`-th batch, from which :math:`\tau` is kept up;
    `wants_scores` says which. Scores that are given anyway are used. It stays off at k = N.

    ``score="loss", weighted=False`` draws in proportion to the loss, without weights: the baseline of
    arXiv:1910.00762, not the published method.

    Needs: logits and targets (one forward pass), or losses.  State: the average of tau, whether it is on, counts, its
    random stream.  Cost: O(N (C + log N)); no host sync but for the last batch's answer, which was copied meanwhile.

    Args:
        keep: fraction of the candidates that is trained.
        relative_score_cost: of scoring a row, relative to training it: s / 3. A forward pass is about a third.
        smoothing: share of the average of tau that a new batch leaves, in [0, 1).
        score: ``"gradient"`` from logits and targets, or ``"loss"``, which must not be negative.
        weighted: answer with weights.
        max_weight: no weight is larger, >= 1.
        probe_every: while off, every so many-th batch is scored, >= 1.
        seed: see `Selector`.
        generator: see `Selector`.

    Raises:
        ValueError: if one of the arguments is out of range, or (on the CPU) a loss is negative.

    >>> select = ImportanceSampling(keep=0.5, relative_score_cost=0.1, seed=0)
    >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    >>> chosen = select(logits=logits, targets=torch.zeros(4, dtype=torch.int64))
    >>> chosen.weights, select.active
    (tensor([1.5000, 0.5000]), True)
    """

    def __init__(
        self,
        keep: float = 1 / 3,
        relative_score_cost: float = 1 / 3,
        smoothing: float = 0.9,
        *,
        score: Literal["gradient", "loss"] = "gradient",
        weighted: bool = True,
        max_weight: float = 10.0,
        probe_every: int = 16,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(keep, seed=seed, generator=generator)
        if score not in ("gradient", "loss") or not (relative_score_cost >= 0 and max_weight >= 1):
            raise ValueError(
                'Expected score="gradient" or "loss", relative_score_cost >= 0 and max_weight >= 1, but got '
                f"{score!r}, {relative_score_cost!r} and {max_weight!r}. The defaults are a place to start."
            )
        self.needs = frozenset({"losses"} if score == "loss" else {"logits", "targets"})
        self.relative_score_cost, self.smoothing, self.score = relative_score_cost, smoothing, score
        self.weighted, self.max_weight, self.probe_every = weighted, max_weight, probe_every
        self.switch = PaySwitch(smoothing, probe_every)

    @property
    def active(self) -> bool:
        """Whether rows are drawn by importance. `switch` knows since when."""
        return self.switch.on

    @property
    def wants(self) -> frozenset[str]:
        """`needs` while it is on and for every `probe_every`-th batch, nothing otherwise."""
        return self.needs if self.switch.due else frozenset()

    def select(
        self,
        k: int,
        *,
        candidates: int,
        device: torch.device,
        losses: Float[Tensor, " batch"] | None = None,
        logits: Float[Tensor, "batch ..."] | None = None,
        targets: Shaped[Tensor, "batch ..."] | None = None,
    ) -> Selection:
        """K rows by importance if that pays, at random otherwise."""
        scores = self._scores(losses, logits, targets)
        order, start = self.shuffled(candidates, device), self.uniform(1, device)
        law = start.new_ones(candidates)
        if scores is None:
            self.switch.skip()
        else:
            scores = scores.to(law)
            costs = 1 + self.relative_score_cost * candidates / k if k < candidates else float("inf")
            law = torch.where(self.switch.update(scores, costs), scores, law)
        inclusion = inclusion_probabilities(law, k, k / (candidates * self.max_weight))
        rows = systematic_sample(inclusion, k, order, start)
        inclusion = inclusion.index_select(0, rows).to(torch.float32)
        return Selection(rows, k / (candidates * inclusion) if self.weighted else None, inclusion)

    def _scores(self, losses: Tensor | None, logits: Tensor | None, targets: Tensor | None) -> Tensor | None:
        if self.score == "gradient":
            if logits is None or targets is None:
                return None
            scores = logit_gradients(logits, targets).square().sum(1).sqrt()
            self._refuse_broken("gradient norms", scores)
            return scores
        if losses is not None and losses.device.type == "cpu" and (negative := int((losses < 0).sum())):
            raise ValueError(
                f"ImportanceSampling draws in proportion to the loss, but {negative} of {len(losses)} losses are "
                "negative. Use LossPercentile, which ranks them."
            )
        return None if losses is None else losses.detach().clamp_min(0)

    def reset(self) -> None:
        """Forget what paid, and the random stream."""
        super().reset()
        self.switch = PaySwitch(self.smoothing, self.probe_every)

    def state_dict(self) -> dict[str, Any]:
        """The random stream and the switch."""
        return {**super().state_dict(), "switch": self.switch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        super().load_state_dict(state)
        self.switch.load_state_dict(state["switch"])
