"""Where a score comes from. Pure torch, no Lightning."""

from litselect.scoring.ledger import Ledger
from litselect.scoring.loss_capture import CaptureError, LossCapture
from litselect.scoring.loss_observer import LossObserver
from litselect.scoring.loss_weights import LossWeights
from litselect.scoring.meta_training.rater_trainer import RaterTrainer
from litselect.scoring.raters.image_rater import ImageRater
from litselect.scoring.raters.labelled_image_rater import LabelledImageRater
from litselect.scoring.raters.rater_artifact import RaterArtifact
from litselect.scoring.raters.statistics_rater import StatisticsRater
from litselect.scoring.raters.table_rater import TableRater
from litselect.scoring.scores import Scores
from litselect.scoring.scoring_pass import ScoringPass

__all__ = [
    "CaptureError",
    "ImageRater",
    "LabelledImageRater",
    "Ledger",
    "LossCapture",
    "LossObserver",
    "LossWeights",
    "RaterArtifact",
    "RaterTrainer",
    "Scores",
    "ScoringPass",
    "StatisticsRater",
    "TableRater",
]
