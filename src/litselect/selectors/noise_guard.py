"""Never train the examples of highest loss: they may be mislabelled.

Loss-based selection under label noise trains the wrong labels first: Hu et al., 2021, "When does loss-based
prioritization fail?", https://arxiv.org/abs/2107.07741. Trimming the largest losses: Shen and Sanghavi, 2019, "Learning
with Bad Training Data via Iterative Trimmed Loss Minimization", https://arxiv.org/abs/1810.11874. Withholding more and
more: Han et al., 2018, "Co-teaching", https://arxiv.org/abs/1804.06872
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import torch

from litselect.selectors.class_losses import ClassLosses
from litselect.selectors.never_seen import never_seen
from litselect.selectors.noise_estimate import NoiseEstimate
from litselect.selectors.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import Set

    from jaxtyping import Float, Shaped
    from torch import Tensor

    from litselect.selectors.selection import Selection
    from litselect.selectors.selector import Selector


_REMEMBERED: Final = 512  # losses a class
_MOST_CLASSES: Final = 2**16  # more are taken for something else than classes


class NoiseGuard(Wrapper):
    r"""Withhold the rows of highest loss; the wrapped selector chooses among the others.

    Withheld are the :math:`\mathrm{round}(d N)` highest losses of the batch (none of a batch smaller than 1 / 2d), or,
    where `percentiles` are given, the rows among the top d of the whole data set, whichever batch they are in; a
    percentile of exactly 1 says that no loss is known, and is let through. Ties are broken at random.

    With a `ramp` d grows with the `progress` t of the training, to :math:`d \min(1, t / \mathrm{ramp})`: the highest
    losses of a young network are of what it has not learned yet, rather than of wrong labels, and what is withheld
    early is not learned.

    With ``drop_top="auto"`` the share is estimated, class by class: `NoiseEstimate` looks at the last 512 losses of
    each class, anew whenever a quarter of what is remembered is new, and rows above the threshold of their class are
    withheld. It acts only on classes whose losses are clearly bimodal, and says in `estimate` which. Losses must be
    cross-entropy, in nats; rows without a known loss, or with a negative label, are let through.

    k counts from all N and comes first: of more than N - k rows to be withheld, the lowest are let through.

    Needs: what the wrapped selector needs, and losses unless it needs percentiles; with "auto" losses and targets.
    State: its random stream, and the wrapped state; with "auto" 512 losses a class and the estimate.
    Cost: O(N log N); with percentiles one host sync, with "auto" several, otherwise none of its own.

    Args:
        selector: chooses among the others.
        drop_top: d, the share that is withheld, in [0, 1), or ``"auto"``.
        ramp: over which share of the training d grows from 0, in [0, 1]; 0 withholds all of d from the beginning.
        seed: see `Wrapper`.
        generator: see `Selector`.

    Raises:
        ValueError: if `drop_top` is neither, or `ramp` is out of range or given with "auto"; with "auto", if targets
            are not one class label per candidate.

    >>> from litselect.selectors import TopLoss
    >>> NoiseGuard(TopLoss(keep=0.5), drop_top=0.25)(losses=torch.tensor([0.1, 3.0, 2.0, 0.2])).indices
    tensor([2, 3])
    """

    def __init__(
        self,
        selector: Selector,
        drop_top: float | Literal["auto"] = 0.05,
        *,
        ramp: float = 0.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(selector, seed=seed, generator=generator)
        if drop_top != "auto" and (isinstance(drop_top, str) or not 0 <= drop_top < 1):
            raise ValueError(
                f"`drop_top` is the share of highest losses that is withheld, in [0, 1), but got {drop_top!r}. "
                'Pass the share of labels that you believe to be wrong, such as 0.05, or "auto" to estimate it.'
            )
        if not 0 <= ramp <= 1 or (ramp and drop_top == "auto"):
            raise ValueError(
                "`ramp` is the share of the training over which `drop_top` grows from 0, in [0, 1], beside a share "
                f"that is given, but got ramp={ramp!r} and drop_top={drop_top!r}. Try ramp=0.3 and drop_top=0.2."
            )
        self.drop_top: float | Literal["auto"] = drop_top
        self.ramp = ramp
        self.memoryless = drop_top != "auto"
        self.follows_progress = self.follows_progress or ramp > 0
        self.estimate: NoiseEstimate | None = None
        self._history = ClassLosses(_REMEMBERED)
        self._met = self._new = 0
        if drop_top == "auto":
            self._own_needs = frozenset({"losses", "targets"})
        elif "percentiles" not in self.needs:
            self._own_needs = frozenset({"losses"})
        self.needs = self.needs | self._own_needs

    @property
    def withheld(self) -> float:
        """The share of highest losses that is withheld now; with "auto" see `estimate`."""
        assert self.drop_top != "auto"
        return self.drop_top * min(1.0, self.progress / self.ramp) if self.ramp else self.drop_top

    def uses(self, given: Set[str]) -> frozenset[str]:
        """What the next call can't do without, see `Selector.uses`."""
        own = {"percentiles"} if "percentiles" in given and self.drop_top != "auto" else self._own_needs
        return self.selector.uses(given) | own

    def select(self, k: int, *, candidates: int, device: torch.device, **scores: Any) -> Selection:
        """The wrapped selector's choice among the rows that are not withheld."""
        percentiles = scores.get("percentiles")
        if self.drop_top == "auto":
            known = ~never_seen(scores["losses"], percentiles, scores.get("ages"))
            suspicion = self._excess(scores["losses"].detach(), scores["targets"].detach(), known)
            dropped = int((suspicion > 0).sum())
        elif percentiles is None:
            suspicion, dropped = scores["losses"].detach(), round(self.withheld * candidates)
        else:
            percentiles = percentiles.detach()
            suspicion = percentiles * ((percentiles > 1 - self.withheld) & (percentiles < 1))
            dropped = int((suspicion > 0).sum())
        rows = self._least(suspicion, candidates - min(dropped, candidates - k))
        chosen = self._choose_among(rows, k, scores)
        return type(chosen)(rows[chosen.indices], chosen.weights, chosen.inclusion)

    def _excess(
        self, losses: Float[Tensor, " batch"], targets: Shaped[Tensor, "batch ..."], known: Tensor
    ) -> Float[Tensor, " batch"]:
        """By how much each loss exceeds the threshold of its class; 0 where it does not, or is not known."""
        most = int(targets.max()) if targets.ndim == 1 and not targets.is_floating_point() else _MOST_CLASSES
        if most >= _MOST_CLASSES:
            raise ValueError(
                f"NoiseGuard judges losses class by class and needs one class label below {_MOST_CLASSES} per "
                f"candidate, but targets are {targets.dtype} of shape {tuple(targets.shape)}. Pass drop_top=0.05 or so."
            )
        known = known & (targets >= 0)
        self._history.append(losses[known], targets[known].long())
        self._met, self._new = self._met + len(losses), self._new + len(losses)
        if 4 * self._new >= min(self._met, self._history.losses.numel()):
            self.estimate, self._new = NoiseEstimate.fit_rows(self._history.losses), 0
        if self.estimate is None or len(self.estimate.thresholds) == 0:
            return torch.zeros_like(losses)
        thresholds = self.estimate.thresholds.to(losses.device)
        known = known & (targets < len(thresholds))
        excess = losses.float() - thresholds[targets.clamp(0, len(thresholds) - 1).long()]
        return torch.where(known, excess, 0.0).clamp_min(0)

    def _least(self, suspicion: Float[Tensor, " batch"], m: int) -> Tensor:
        """The `m` rows of least suspicion, ascending."""
        order = self.shuffled(len(suspicion), suspicion.device)
        return order[suspicion[order].sort(stable=True).indices[:m]].sort().values

    def reset(self) -> None:
        """Forget the losses and the estimate too."""
        super().reset()
        self._history, self.estimate, self._met, self._new = ClassLosses(_REMEMBERED), None, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """The state of both; with "auto" the losses, the estimate and the counts."""
        state = super().state_dict()
        if self.drop_top == "auto":
            state.update(history=self._history.state_dict(), met=self._met, new=self._new)
            if self.estimate is not None:
                state.update(thresholds=self.estimate.thresholds.clone(), shares=self.estimate.shares.clone())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        super().load_state_dict(state)
        if self.drop_top == "auto":
            self._history.load_state_dict(state["history"])
            self._met, self._new = state["met"], state["new"]
            known = "thresholds" in state
            self.estimate = NoiseEstimate(state["thresholds"].clone(), state["shares"].clone()) if known else None
