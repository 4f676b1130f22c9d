"""Functions whose last bit depends on where in a tensor a number stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor


def by_batch(function: Callable[[Tensor], Tensor], values: Float[Tensor, "*batches batch"]) -> Tensor:
    """Of one batch, or of each of several by itself.

    What vector instructions leave over at the end of a tensor is computed by scalar ones, which round powers otherwise.
    So what is chosen of a batch would depend on those that are chosen from at the same time.
    """
    return function(values) if values.dim() == 1 else torch.stack([function(batch) for batch in values])
