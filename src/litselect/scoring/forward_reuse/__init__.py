"""One forward for scoring and for training: backward through the chosen rows of what it saved. Pure torch."""

from litselect.scoring.forward_reuse.engine import ForwardReuse
from litselect.scoring.forward_reuse.unsupported import Unsupported

__all__ = ["ForwardReuse", "Unsupported"]
