"""Raters as config files name them, all called with what is known of the training set."""

from litselect.scoring import ImageRater, LabelledImageRater, TableRater


def image(channels: int, classes: int, examples: int, width: int) -> ImageRater:
    """Sees an image without its label."""
    return ImageRater(channels, width)


def labelled_image(channels: int, classes: int, examples: int, width: int) -> LabelledImageRater:
    """Sees an image and its label."""
    return LabelledImageRater(channels, classes, width)


def table(channels: int, classes: int, examples: int) -> TableRater:
    """Sees which example it is: one number each."""
    return TableRater(examples)
