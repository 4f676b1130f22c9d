"""What an experiment adds to the Trainer: counting, a budget, a schedule in its unit, and records of learning."""

from experiments.callbacks.budget import Budget
from experiments.callbacks.cost import Cost
from experiments.callbacks.learning_curve import LearningCurve
from experiments.callbacks.learning_rate import LearningRate
from experiments.callbacks.meter import Meter
from experiments.callbacks.tally import Tally
from experiments.callbacks.trained_rows import TrainedRows

__all__ = ["Budget", "Cost", "LearningCurve", "LearningRate", "Meter", "Tally", "TrainedRows"]
