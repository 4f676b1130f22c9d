"""What an experiment adds to the Trainer: counting and a learning curve."""

from experiments.callbacks.cost import Cost
from experiments.callbacks.learning_curve import LearningCurve
from experiments.callbacks.meter import Meter
from experiments.callbacks.tally import Tally

__all__ = ["Cost", "LearningCurve", "Meter", "Tally"]
