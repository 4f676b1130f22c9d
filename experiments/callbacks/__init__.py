"""What an experiment adds to the Trainer: counting, and records of learning."""

from experiments.callbacks.cost import Cost
from experiments.callbacks.learning_curve import LearningCurve
from experiments.callbacks.meter import Meter
from experiments.callbacks.tally import Tally
from experiments.callbacks.trained_rows import TrainedRows

__all__ = ["Cost", "LearningCurve", "Meter", "Tally", "TrainedRows"]
