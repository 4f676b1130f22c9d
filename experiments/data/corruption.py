"""Training sets spoilt on purpose: wrong labels, ruined pixels, repeated examples, and splits that stay clean."""

import torch
from torch import Tensor

from experiments.data.images import Images
from experiments.errors import UsageError


def split(images: Images, fraction: float, generator: torch.Generator) -> tuple[Images, Images]:
    """Draws `round(fraction * N)` rows without replacement.

    Returns:
        The rest, in the original order, and the rows drawn.
    """
    order = torch.randperm(len(images), generator=generator)
    drawn = round(fraction * len(images))
    return images.rows(order[drawn:].sort().values), images.rows(order[:drawn].sort().values)


def thinned(images: Images, size: int | None, imbalance: float, generator: torch.Generator) -> Images:
    """Draws a smaller training set, of classes of unequal size if asked for.

    Args:
        images: the whole.
        size: how many rows are drawn in all before classes are thinned, the same from each class as far as it goes;
            None for all.
        imbalance: rows of the last class for each row of the first; those between on an exponential curve.
        generator: of the draws; nothing is drawn where nothing is left out.

    Returns:
        The rows drawn, in the original order.

    Raises:
        UsageError: more rows than there are.
    """
    if size is not None and size > len(images):
        raise UsageError(
            f"data.train_examples must not exceed the {len(images)} training examples, received {size}; lower it"
        )
    if (size is None or size == len(images)) and imbalance == 1:
        return images
    order = torch.randperm(len(images), generator=generator)
    labels, rank = images.labels[order], torch.empty(len(images), dtype=torch.long)
    for label in range(images.classes):  # the place of each row among those of its class
        of_class = labels == label
        rank[of_class] = torch.arange(int(of_class.sum()))
    kept = torch.argsort(rank, stable=True)[:size]  # class after class in turns
    counts = torch.bincount(labels[kept], minlength=images.classes)
    shares = imbalance ** (torch.arange(images.classes) / max(1, images.classes - 1))
    kept = kept[rank[kept] < (counts * shares).round().long()[labels[kept]]]
    return images.rows(order[kept].sort().values)


def flip_labels(images: Images, fraction: float, generator: torch.Generator) -> Images:
    """Gives exactly `round(fraction * N)` rows a wrong label, uniform over the other classes.

    Raises:
        UsageError: there is no other class.
    """
    wrong = round(fraction * len(images))
    if not wrong:
        return images
    if images.classes < 2:
        raise UsageError(
            f"data.label_noise needs at least 2 classes, received {images.classes}; set data.label_noise=0"
        )
    rows = torch.randperm(len(images), generator=generator)[:wrong]
    shift = torch.randint(1, images.classes, (wrong,), generator=generator)
    labels = images.labels.clone()
    labels[rows] = (labels[rows] + shift) % images.classes
    return images.with_labels(labels)


def shuffle_pixels(images: Images, fraction: float, generator: torch.Generator) -> tuple[Images, Tensor]:
    """Gives the pixels of exactly `round(fraction * N)` images other places, in each image differently.

    Colours and labels stay, so neither the brightness of an image nor its label alone gives it away.

    Returns:
        The images, and the rows that were spoilt: `[N]` bool.
    """
    spoilt = torch.zeros(len(images), dtype=torch.bool)
    count = round(fraction * len(images))
    if not count:
        return images, spoilt
    rows = torch.randperm(len(images), generator=generator)[:count]
    spoilt[rows] = True
    pixels = images.pixels.clone()
    height, width = pixels.shape[2:]
    places = torch.rand(count, height * width, generator=generator).argsort(1)[:, None]  # a permutation for each
    flat = pixels[rows].flatten(2)
    pixels[rows] = flat.gather(2, places.expand_as(flat)).unflatten(2, (height, width))
    return images.with_pixels(pixels), spoilt


def keep_for_duplication(images: Images, copies: int, generator: torch.Generator) -> Images:
    """Draws the `ceil(N / copies)` distinct examples that are to stand for the whole set.

    Raises:
        UsageError: more copies than examples.
    """
    if copies > len(images):
        raise UsageError(
            f"data.duplicates must not exceed the {len(images)} training examples, received {copies}; lower it"
        )
    distinct = -(-len(images) // copies)
    return images.rows(torch.randperm(len(images), generator=generator)[:distinct].sort().values)


def copies(distinct: int, each: int, size: int) -> Tensor:
    """Repeats the rows of `distinct` examples `each` times, cut to `size` rows so that an epoch costs what it did."""
    return torch.arange(distinct).repeat(each)[:size]
