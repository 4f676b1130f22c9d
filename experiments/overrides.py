"""What a command line hands on to the runs that it starts."""

from collections.abc import Collection

from experiments.errors import UsageError


def key_of(override: str) -> str:
    """The setting that an override is about: `model.width` for `+model.width=32`."""
    return override.lstrip("+~").partition("=")[0]


def handed_on(
    overrides: list[str], own: Collection[str], decided: Collection[str], rule: str, instead: str
) -> list[str]:
    """The overrides that go on to every run.

    Args:
        overrides: of the application.
        own: keys that it keeps to itself.
        decided: keys that it sets for each run.
        rule: how an error begins, `{}` standing for the key.
        instead: what to set instead.

    Raises:
        UsageError: one that it sets for each run.
    """
    for override in overrides:
        if key_of(override) in decided:
            raise UsageError(f"{rule.format(key_of(override))}, received {override}; use {instead}")
    return [override for override in overrides if key_of(override) not in own]
