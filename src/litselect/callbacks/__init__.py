"""Where selection meets a Trainer."""

from litselect.callbacks.counters import Counters
from litselect.callbacks.data_rater import DataRater
from litselect.callbacks.example_selection import ExampleSelection
from litselect.callbacks.selective_backprop import SelectiveBackprop

__all__ = ["Counters", "DataRater", "ExampleSelection", "SelectiveBackprop"]
