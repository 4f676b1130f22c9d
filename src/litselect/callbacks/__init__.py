"""Where selection meets a Trainer."""

from litselect.callbacks.budget import Budget
from litselect.callbacks.budget_schedule import BudgetSchedule
from litselect.callbacks.counters import Counters
from litselect.callbacks.data_rater import DataRater
from litselect.callbacks.example_selection import ExampleSelection
from litselect.callbacks.price import Price
from litselect.callbacks.prices import Prices
from litselect.callbacks.selective_backprop import SelectiveBackprop
from litselect.callbacks.skip_learned import SkipLearned
from litselect.callbacks.trimmed_loss import TrimmedLoss

__all__ = [
    "Budget",
    "BudgetSchedule",
    "Counters",
    "DataRater",
    "ExampleSelection",
    "Price",
    "Prices",
    "SelectiveBackprop",
    "SkipLearned",
    "TrimmedLoss",
]
