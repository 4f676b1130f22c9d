"""What a rater may look at, taken out of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from torch import Tensor

Fields = Callable[[Any], dict[str, Tensor]]
"""``fields(batch)``: the tensors in it, ``[N, ...]`` each, by the names ``inputs``, ``targets`` and ``ids``."""

_KEYS: Final = {
    "inputs": ("inputs", "input", "image", "images", "x", "pixel_values", "input_ids"),
    "targets": ("targets", "target", "label", "labels", "y"),
    "ids": ("ids", "id", "index", "idx"),
}


def default_fields(batch: Any) -> dict[str, Tensor]:
    """The fields of a tensor (inputs), a tuple or list (inputs, targets, ids), or a mapping with the usual keys.

    Raises:
        ValueError: if the batch is none of these.
    """
    if isinstance(batch, Tensor):
        return {"inputs": batch}
    if isinstance(batch, (tuple, list)):
        parts = cast("tuple[Any, ...]", batch)
        found = {name: part for name, part in zip(_KEYS, parts, strict=False) if isinstance(part, Tensor)}
        if found:
            return found
    if isinstance(batch, Mapping):
        items = cast("Mapping[str, Any]", batch)
        found = {name: next((items[key] for key in keys if key in items), None) for name, keys in _KEYS.items()}
        if any(isinstance(value, Tensor) for value in found.values()):
            return {name: value for name, value in found.items() if isinstance(value, Tensor)}
    raise ValueError(
        "A rater looks at the inputs, targets or ids in a batch, but a batch of type "
        f"{type(cast('Any', batch)).__name__} was received in which none was found. Pass "
        "`fields=lambda batch: {'inputs': ..., 'targets': ...}`."
    )
