"""Shapes of the learning rate: a factor from 0 to 1 for every share of the budget that is spent."""

from litselect.schedules.constant import Constant
from litselect.schedules.cosine import Cosine
from litselect.schedules.linear import Linear
from litselect.schedules.one_cycle import OneCycle
from litselect.schedules.schedule import Schedule
from litselect.schedules.steps import Steps

__all__ = ["Constant", "Cosine", "Linear", "OneCycle", "Schedule", "Steps"]
