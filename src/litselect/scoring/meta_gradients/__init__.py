"""How a held-out loss depends on the weights that examples got some training steps before."""

from litselect.scoring.meta_gradients.adam import Adam
from litselect.scoring.meta_gradients.inner_optimizer import InnerOptimizer
from litselect.scoring.meta_gradients.inner_state import InnerState
from litselect.scoring.meta_gradients.look_ahead import Estimator, LookAhead
from litselect.scoring.meta_gradients.meta_gradient import MetaGradient
from litselect.scoring.meta_gradients.objective import LossObjective, Objective
from litselect.scoring.meta_gradients.sgd import SGD
from litselect.scoring.meta_gradients.window import Window

__all__ = [
    "SGD",
    "Adam",
    "Estimator",
    "InnerOptimizer",
    "InnerState",
    "LookAhead",
    "LossObjective",
    "MetaGradient",
    "Objective",
    "Window",
]
