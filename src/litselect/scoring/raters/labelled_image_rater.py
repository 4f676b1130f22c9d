"""A rater that sees an image and its label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from litselect.scoring.raters.image_rater import ImageRater

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped


class LabelledImageRater(ImageRater):
    """One output per class; the rating is the output at the example's label.

    Args:
        channels: of the images.
        classes: how many labels there are.
        width: see `ImageRater`.
        size: see `ImageRater`.
        mean: see `ImageRater`.
        std: see `ImageRater`.
    """

    def __init__(
        self,
        channels: int = 3,
        classes: int = 10,
        width: int = 16,
        *,
        size: int | None = None,
        mean: Sequence[float] | float = 0.0,
        std: Sequence[float] | float = 1.0,
    ) -> None:
        super().__init__(channels, width, size=size, mean=mean, std=std, outputs=classes)
        self.arguments["classes"] = self.arguments.pop("outputs")

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - it sees more
        self, inputs: Shaped[Tensor, "batch channels height width"], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The ratings of images under these labels."""
        return self._outputs(inputs).gather(1, targets.long()[:, None]).squeeze(1)
