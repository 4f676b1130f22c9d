"""From a node of the config to the object it describes."""

import inspect
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.errors import UsageError


def build(config: DictConfig, group: str, **given: Any) -> Any:
    """Instantiates `config[group]`; a partial is completed with `given`.

    Args:
        config: the whole config, so that interpolations resolve.
        group: a group of it, such as `model`.
        given: what the config cannot know, such as the number of classes.

    Returns:
        The object, or None if the group is empty.

    Raises:
        UsageError: a key that the target does not take, or lacks.
        InstantiationException: the target refused its values.
    """
    if not config[group]:
        return None
    made = instantiate(config[group], _convert_="all")
    if not config[group].get("_partial_"):
        return made
    if group == "optimizer":  # stays a partial: the parameters come later
        return made
    try:
        inspect.signature(made).bind(**given)
    except TypeError as error:
        raise UsageError(
            f"{config[group]._target_} must be given what its signature names, received {group}.*: {error}; "
            f"see its documentation"
        ) from error
    return made(**given)
