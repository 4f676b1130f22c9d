"""One base class for the Trainers of both packages.

`pytorch_lightning` and `lightning.pytorch` hold two separate class trees with the same content. A callback that derives
from both is at home in either Trainer; where only one is installed, it derives from that one.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING


def installed(package: str) -> bool:
    """Whether it can be imported: a user's folder named `lightning` is found, too, but holds no `pytorch`."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


if TYPE_CHECKING:
    from pytorch_lightning import Callback as CallbackBase
else:
    _homes = [
        importlib.import_module(package).Callback
        for package in ("pytorch_lightning", "lightning.pytorch")
        if installed(package)
    ]
    CallbackBase = type("CallbackBase", tuple(_homes), {"__doc__": "Base of the callbacks, for either Trainer."})

__all__ = ["CallbackBase"]
