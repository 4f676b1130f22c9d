"""Raters: made once by meta-gradients, kept in a folder together with what they cost, and trained by."""

from experiments.rating.making import make_rater
from experiments.rating.meta_training import MetaTraining
from experiments.rating.online import Online
from experiments.rating.rated import Rated

__all__ = ["MetaTraining", "Online", "Rated", "make_rater"]
