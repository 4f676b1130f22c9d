"""How many labels of each class are wrong, judged by its losses.

Arazo et al., 2019, "Unsupervised Label Noise Modeling and Loss Correction", https://arxiv.org/abs/1904.11238, for the
mixture of two beta distributions; Li et al., 2020, "DivideMix", https://arxiv.org/abs/2002.07394, for acting on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_FEWEST: Final = 64  # losses of a class; of fewer, nothing is said
_ITERATIONS: Final = 30
_SIGNIFICANT: Final = 3.0  # standard deviations


@dataclass(frozen=True, eq=False)
class NoiseEstimate:
    r"""A threshold for the losses of each class, above which labels are taken for wrong.

    The probability :math:`p = e^{-\mathrm{loss}}` of the label is modelled, class by class, as a mixture of two beta
    distributions, fitted by EM with moments in the M step. The threshold is where both are equally likely, and at
    least log C, the loss of chance among C classes. (The paper scales losses to [0, 1] by the largest; cross-entropy
    has a probability in there already, and then no outlier decides what 1 is.)

    A fit always finds two groups, in clean losses too: a skewed distribution is fitted better by two components than by
    one, so that the gap of BIC says nothing. A class gets a threshold only if it is **clearly bimodal**:

    - the probabilities have a valley. In the window around the threshold there are fewer of them than in one as
      wide at zero, and than in one around the mean of the other group or at one, each by 3 standard deviations of the
      difference. Losses with one mode do that by chance alone;
    - the upper group is *worse than chance*: its mean loss exceeds log C, unlike that of what is not learned yet;
    - it is the smaller one: a half that is wrong can't be told from a half that is hard;
    - there are 64 losses at least.

    Two groups of right labels, one of them learned and the other predicted wrongly, look the same: no rule that sees
    losses alone tells them apart. Losses must be cross-entropy, in nats.

    Attributes:
        thresholds: ``[C]``, inf where the class is not clearly bimodal.
        shares: ``[C]``, how much of the class's losses is above its threshold.

    >>> right, wrong = torch.rand(80) * 0.3, 4 + torch.rand(20)
    >>> estimate = NoiseEstimate.fit(torch.cat([right, wrong, right]), torch.tensor([0] * 100 + [1] * 80))
    >>> estimate.shares, estimate.thresholds[1]
    (tensor([0.2000, 0.0000]), tensor(inf))
    """

    thresholds: Float[Tensor, " classes"]
    shares: Float[Tensor, " classes"]

    @classmethod
    def fit(cls, losses: Float[Tensor, " examples"], classes: Int[Tensor, " examples"]) -> NoiseEstimate:
        """Estimate from M losses and their labels 0 to C - 1; losses that are not finite are left out."""
        classes, order = classes.sort(stable=True)
        sizes = torch.bincount(classes)
        place = torch.arange(len(classes), device=classes.device) - (sizes.cumsum(0) - sizes)[classes]
        table = losses.new_full((len(sizes), int(sizes.max())), torch.inf)
        table[classes, place] = losses.detach()[order]
        return cls.fit_rows(table)

    @classmethod
    def fit_rows(cls, losses: Float[Tensor, "classes examples"]) -> NoiseEstimate:
        """Estimate from a row of losses for each class, inf where there is none."""
        losses = losses.detach().to(torch.float32 if losses.device.type == "mps" else torch.float64)
        there = losses.isfinite()
        losses = losses.where(there, 0)
        p = losses.neg().exp().clamp(1e-3, 1 - 1e-3)  # the densities may be infinite at 0 and 1
        n = there.sum(1)
        wrong, right = _mixture(p, there)
        border = _border(wrong, right)
        noisy = there & (p < border)
        shares = noisy.sum(1) / n.clamp_min(1)
        mean = (losses * noisy).sum(1) / noisy.sum(1).clamp_min(1)
        chance = (n > 0).sum().clamp_min(2).log()
        clear = _has_valley(p, there, border, right.mean) & (mean > chance) & (shares < 0.5) & (n >= _FEWEST)
        thresholds = torch.where(clear, torch.maximum(-border[:, 0].log(), chance), torch.inf).float()
        above = (losses > thresholds[:, None]) & there
        return cls(thresholds, (above.sum(1) / n.clamp_min(1)).float())


@dataclass
class _Beta:
    """A weighted beta distribution for each class, ``[C, 1]`` each."""

    weight: Tensor
    mean: Tensor
    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, p: Tensor, there: Tensor, share: Tensor) -> _Beta:
        """By the moments of `p` under the weights `share`."""
        total = share.sum(1, keepdim=True).clamp_min(1e-9)
        mean = (share * p).sum(1, keepdim=True) / total
        variance = ((share * (p - mean).square()).sum(1, keepdim=True) / total).clamp_min(1e-6)
        size = (mean * (1 - mean) / variance - 1).clamp_min(1e-2)
        return cls(total / there.sum(1, keepdim=True).clamp_min(1), mean, mean * size, (1 - mean) * size)

    def log_density(self, p: Tensor) -> Tensor:
        scale = torch.lgamma(self.a + self.b) - torch.lgamma(self.a) - torch.lgamma(self.b) + self.weight.log()
        return scale + (self.a - 1) * p.log() + (self.b - 1) * torch.log1p(-p)


def _mixture(p: Tensor, there: Bool[Tensor, "classes examples"]) -> tuple[_Beta, _Beta]:
    """The group of low probabilities and the other."""
    share = (1 - p) * there
    wrong = right = _Beta.of(p, there, share)
    for _ in range(_ITERATIONS):
        wrong, right = _Beta.of(p, there, share), _Beta.of(p, there, there.to(p.dtype) - share)
        share = torch.sigmoid(wrong.log_density(p) - right.log_density(p)) * there
    return wrong, right


def _border(wrong: _Beta, right: _Beta) -> Float[Tensor, "classes 1"]:
    """Where both are equally likely, between their means; 1/2 at most, above which the label is what is predicted."""
    low, high = wrong.mean, right.mean
    for _ in range(30):
        middle = (low + high) / 2
        is_wrong = wrong.log_density(middle) > right.log_density(middle)
        low, high = torch.where(is_wrong, middle, low), torch.where(is_wrong, high, middle)
    return ((low + high) / 2).clamp_max(0.5)


def _has_valley(p: Tensor, there: Tensor, border: Tensor, right: Tensor) -> Bool[Tensor, " classes"]:
    """Whether there is significantly less around the border than below and above it, in windows of one width."""

    def within(low: Tensor, high: Tensor) -> Tensor:
        return (there & (p >= low) & (p < high)).sum(1)

    width = border * 2 / 3  # from 0, the second of these has the border in its middle
    valley = within(width, 2 * width)
    above = torch.maximum(within(right - width / 2, right + width / 2), within(1 - width, torch.ones_like(width)))
    peak = torch.minimum(within(torch.zeros_like(width), width), above)
    return peak - valley > _SIGNIFICANT * (peak + valley).sqrt()
