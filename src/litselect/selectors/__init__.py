"""Which rows to train: tensors in, row indices (and weights) out. Pure torch, no Lightning."""

from litselect.selectors.importance_sampling import ImportanceSampling
from litselect.selectors.keep_all import KeepAll
from litselect.selectors.loss_percentile import LossPercentile
from litselect.selectors.random_subset import RandomSubset
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector
from litselect.selectors.top_loss import TopLoss
from litselect.selectors.uncertainty import Uncertainty

__all__ = [
    "ImportanceSampling",
    "KeepAll",
    "LossPercentile",
    "RandomSubset",
    "Selection",
    "Selector",
    "TopLoss",
    "Uncertainty",
]
