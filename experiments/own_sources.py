"""Code that a config names beside the packages: a user's own selector, network or data."""

import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

_PACKAGES = ("litselect", "experiments")  # whose sources have a digest of their own


def own_sources(config: Any) -> list[Path]:
    """The files of the modules that `_target_`s name, but for those of installed packages, without twins.

    Args:
        config: plain dicts, lists and values.
    """
    installed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]
    files = {file for target in _targets(config) if (file := _file_of(target)) is not None}
    return sorted(file for file in files if not any(file.is_relative_to(folder) for folder in installed))


def _targets(node: Any) -> Iterator[str]:
    children: list[Any] = []
    if isinstance(node, dict):
        values = cast("dict[str, Any]", node)
        children = list(values.values())
        if isinstance(target := values.get("_target_"), str):
            yield target
    elif isinstance(node, list):
        children = cast("list[Any]", node)
    for child in children:
        yield from _targets(child)


def _file_of(target: str) -> Path | None:
    """Of the longest part of a dotted name that is a module; None where there is none, of which Hydra tells."""
    name = target.rpartition(".")[0]
    while name and name.partition(".")[0] not in _PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # its parent is no package, or can't be imported: of that the run tells
            spec = None
        if spec is not None:
            return Path(spec.origin).resolve() if spec.origin and spec.has_location else None
        name = name.rpartition(".")[0]
    return None
