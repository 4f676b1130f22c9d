"""Networks that rate examples."""

from litselect.scoring.raters.fields import Fields, default_fields
from litselect.scoring.raters.image_rater import ImageRater
from litselect.scoring.raters.kept_labels import KeptLabels
from litselect.scoring.raters.labelled_image_rater import LabelledImageRater
from litselect.scoring.raters.rate import asks_for, rate
from litselect.scoring.raters.statistics import statistics_of
from litselect.scoring.raters.statistics_rater import StatisticsRater
from litselect.scoring.raters.table_rater import TableRater

__all__ = [
    "Fields",
    "ImageRater",
    "KeptLabels",
    "LabelledImageRater",
    "StatisticsRater",
    "TableRater",
    "asks_for",
    "default_fields",
    "rate",
    "statistics_of",
]
