"""Where a score comes from. Pure torch, no Lightning."""

from litselect.scoring.ledger import Ledger
from litselect.scoring.loss_capture import CaptureError, LossCapture
from litselect.scoring.loss_observer import LossObserver
from litselect.scoring.loss_weights import LossWeights
from litselect.scoring.scores import Scores
from litselect.scoring.scoring_pass import ScoringPass

__all__ = ["CaptureError", "Ledger", "LossCapture", "LossObserver", "LossWeights", "Scores", "ScoringPass"]
