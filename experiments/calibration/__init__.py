"""What each piece of a training costs on one machine: the seconds behind a budget in reference time."""

from experiments.calibration.calibrate import calibrate
from experiments.calibration.calibration import Calibration

__all__ = ["Calibration", "calibrate"]
