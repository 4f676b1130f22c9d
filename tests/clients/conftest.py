"""Opt-in: these tests need libraries of gigabytes (`make test-clients`) and are collected only where they are named."""

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def pytest_ignore_collect(config: Any) -> bool | None:
    """Ignore this folder, unless the command line names it or something in it."""
    named = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    return None if any(path == HERE or HERE in path.parents for path in named) else True
