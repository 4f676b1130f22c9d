"""Shapes of the learning rate: a factor from 0 to 1 for every share of the budget that is spent."""

from experiments.schedules.constant import Constant
from experiments.schedules.cosine import Cosine
from experiments.schedules.linear import Linear
from experiments.schedules.schedule import Schedule
from experiments.schedules.steps import Steps

__all__ = ["Constant", "Cosine", "Linear", "Schedule", "Steps"]
