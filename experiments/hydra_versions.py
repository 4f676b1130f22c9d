"""What Hydra 1.3 and 1.4 want to be told differently."""

from typing import Any

import hydra

SINCE_1_4 = tuple(map(int, hydra.__version__.split(".")[:2])) >= (1, 4)

FOR_MAIN: dict[str, Any] = {} if SINCE_1_4 else {"version_base": None}
"""Arguments of `hydra.main`: 1.3 asks for a version, 1.4 deprecates the question."""

MAY_BE_BUILT = ("experiments.*", "litselect.*", "torch.*", "pytorch_lightning.*", "lightning.*")

FOR_INSTANTIATE: dict[str, Any] = {"_execution_whitelist_": MAY_BE_BUILT} if SINCE_1_4 else {}
"""Arguments of `hydra.utils.instantiate`: 1.4 asks which packages a config may name."""
