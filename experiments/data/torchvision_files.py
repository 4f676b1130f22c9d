"""Opening torchvision's data sets, with errors that say what to do."""

from collections.abc import Callable
from typing import TypeVar

from experiments.errors import UsageError

DataSet = TypeVar("DataSet")


def open_files(make: Callable[[], DataSet], root: str, download: bool) -> DataSet:
    """Calls `make`, which constructs a torchvision data set below `root`.

    Raises:
        UsageError: the files are missing, damaged, or could not be downloaded or written.
    """
    try:
        return make()
    except (RuntimeError, OSError) as error:  # torchvision: RuntimeError; urllib and the file system: OSError
        remedy = (
            "check the connection and the permission to write there, or put the files there yourself"
            if download
            else "set data.download=true, or data.root to the folder that has the files"
        )
        raise UsageError(f"the data set must lie in data.root={root}, received: {error}; {remedy}") from error
