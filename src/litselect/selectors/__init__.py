"""Which rows to train: tensors in, row indices (and weights) out. Pure torch, no Lightning."""

from litselect.selectors.diverse_subset import DiverseSubset
from litselect.selectors.hide_learned import HideLearned
from litselect.selectors.importance_sampling import ImportanceSampling
from litselect.selectors.info_batch import InfoBatch
from litselect.selectors.keep_all import KeepAll
from litselect.selectors.keep_unlearned import KeepUnlearned
from litselect.selectors.loss_percentile import LossPercentile
from litselect.selectors.mixture import Mixture
from litselect.selectors.noise_guard import NoiseGuard
from litselect.selectors.random_subset import RandomSubset
from litselect.selectors.rank_sampling import RankSampling
from litselect.selectors.rated_subset import RatedSubset
from litselect.selectors.reducible_loss import ReducibleLoss
from litselect.selectors.scheduled import Scheduled
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector
from litselect.selectors.shuffled_scores import ShuffledScores
from litselect.selectors.stratified import Stratified
from litselect.selectors.top_loss import TopLoss
from litselect.selectors.uncertainty import Uncertainty

__all__ = [
    "DiverseSubset",
    "HideLearned",
    "ImportanceSampling",
    "InfoBatch",
    "KeepAll",
    "KeepUnlearned",
    "LossPercentile",
    "Mixture",
    "NoiseGuard",
    "RandomSubset",
    "RankSampling",
    "RatedSubset",
    "ReducibleLoss",
    "Scheduled",
    "Selection",
    "Selector",
    "ShuffledScores",
    "Stratified",
    "TopLoss",
    "Uncertainty",
]
