"""Augmentation draws for every image by itself, from its own generator, and reaches every position."""

import torch
from torchvision.transforms import v2

from experiments.data.augment import crop_and_flip, cutout

PICTURE = torch.arange(1, 3 * 6 * 6 + 1, dtype=torch.uint8).view(1, 3, 6, 6)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def reference(picture: torch.Tensor, padding: int) -> set[bytes]:
    """Every crop and flip of one picture, one by one."""
    padded = torch.nn.functional.pad(picture, (padding,) * 4)
    found = set()
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + 6, left : left + 6]
            found |= {window.contiguous().numpy().tobytes(), window.flip(-1).contiguous().numpy().tobytes()}
    return found


def different(images: torch.Tensor) -> set[bytes]:
    return {image.contiguous().numpy().tobytes() for image in images}


def test_every_crop_and_flip_occurs_and_no_other() -> None:
    batch = PICTURE.expand(2000, -1, -1, -1)
    assert different(crop_and_flip(batch, 1, True, generator())) == reference(PICTURE[0], 1)


def test_one_batch_holds_many_crops_where_torchvision_holds_one() -> None:
    batch = PICTURE.expand(64, -1, -1, -1)
    assert len(different(crop_and_flip(batch, 2, True, generator()))) > 20
    assert len(different(v2.RandomCrop(6, padding=2)(batch))) == 1  # the reason for functions of our own


def test_flip_alone_mirrors_half() -> None:
    batch = PICTURE.expand(1000, -1, -1, -1)
    out = crop_and_flip(batch, 0, True, generator())
    mirrored = (out == PICTURE.flip(-1)).all(dim=(1, 2, 3)).sum()
    assert 400 < mirrored < 600
    assert ((out == PICTURE).all(dim=(1, 2, 3)).sum() + mirrored) == 1000


def test_shift_of_both_axes_is_independent() -> None:
    batch = PICTURE.expand(3000, -1, -1, -1)
    assert len(different(crop_and_flip(batch, 2, False, generator()))) == 25


def test_cutout_is_a_square_anywhere_and_all_channels() -> None:
    images = torch.ones(4000, 3, 8, 8)
    out = cutout(images, 4, generator())
    holes = out == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    assert torch.equal(holes[:, 0], holes[:, 2])
    areas = holes[:, 0].sum(dim=(1, 2))
    assert areas.max() == 16
    assert areas.min() == 4  # a corner: the square reaches over the border
    assert len(different(holes[:, :1])) == 64  # one for every centre
    assert images.min() == 1  # the input is untouched


def test_cutout_larger_than_the_image() -> None:
    assert cutout(torch.ones(5, 1, 4, 4), 20, generator()).sum() == 0


def test_same_seed_same_draws_and_global_randomness_untouched() -> None:
    batch, before = PICTURE.expand(32, -1, -1, -1), torch.get_rng_state()
    first, second = (cutout(crop_and_flip(batch, 2, True, generator()).float(), 2, generator()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
