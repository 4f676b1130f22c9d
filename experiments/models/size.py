"""The smallest image that a convolutional network of ours accepts."""

from experiments.errors import UsageError


def require_size(size: int, at_least: int) -> None:
    """Refuses images that strides would shrink away.

    Raises:
        UsageError: `size` (side in pixels) is below `at_least`.
    """
    if size < at_least:
        raise UsageError(
            f"this model needs images of at least {at_least} pixels a side, received {size}; choose model=mlp"
        )
