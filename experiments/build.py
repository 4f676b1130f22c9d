"""From a node of the config to the object it describes."""

import inspect
from typing import Any

from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from experiments.errors import UsageError
from experiments.hydra_versions import FOR_INSTANTIATE


def build(config: DictConfig, group: str, **given: Any) -> Any:
    """Instantiates `config[group]`; a partial is completed with `given`.

    Args:
        config: the whole config, so that interpolations resolve.
        group: a group of it, such as `model`.
        given: what the config cannot know, such as the number of classes.

    Returns:
        The object; without `given`, a partial stays one. None if the group is empty.

    Raises:
        UsageError: a key that the target does not take or lacks, or a value that it refuses.
        InstantiationException: the same, from targets that are no partials.
    """
    if not config[group]:
        return None
    made = instantiate(config[group], _convert_="all", **FOR_INSTANTIATE)
    if not config[group].get("_partial_"):
        return made
    takes = inspect.signature(made.func).parameters
    if unknown := made.keywords.keys() - takes.keys():
        known = [name for name in takes if name not in given]
        raise UsageError(f"{group} takes {', '.join(known)}, received {', '.join(sorted(unknown))}; correct the name")
    if not given:
        return made
    try:
        return made(**given)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UsageError(f"{group}: {error}") from error
