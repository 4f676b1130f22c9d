"""Wrong labels, duplicates and splits, counted."""

from typing import Any

import pytest
import torch

from experiments.data import ImageData, Images
from experiments.data.corruption import flip_labels, shuffle_pixels
from experiments.errors import UsageError
from tests.experiments.sources import digits, given

CLEAN, TEST = digits().read()


def numbered(rows: int, classes: int = 10) -> Images:
    """Images that carry their row number in two pixels."""
    pixels = torch.zeros(rows, 1, 8, 8, dtype=torch.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = torch.arange(rows) // 256, torch.arange(rows) % 256
    return Images(pixels, torch.arange(rows) % classes, classes)


def numbers(images: Images) -> torch.Tensor:
    return images.pixels[:, 0, 0, 0].long() * 256 + images.pixels[:, 0, 0, 1]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4, 1.0])
def test_exactly_the_fraction_is_wrong(noise: float) -> None:
    data = ImageData(digits(label_noise=noise), seed=0, parts=(CLEAN, TEST))
    assert (data.train.labels != CLEAN.labels).sum() == round(noise * len(CLEAN))
    assert torch.equal(data.test.labels, TEST.labels)


def test_wrong_labels_are_uniform_over_the_other_classes() -> None:
    images = numbered(90_000)
    noisy = flip_labels(images, 1.0, torch.Generator().manual_seed(0)).labels
    counts = torch.bincount(noisy[images.labels == 3], minlength=10)
    assert counts[3] == 0
    expected = 1000
    assert (counts[counts > 0] - expected).abs().max() < 5 * expected**0.5
    assert (counts > 0).sum() == 9


def test_corruption_follows_its_own_seed() -> None:
    def labels(**changes: int) -> torch.Tensor:
        seed = changes.pop("seed", 0)
        return ImageData(digits(label_noise=0.4, **changes), seed=seed, parts=(CLEAN, TEST)).train.labels

    assert torch.equal(labels(), labels(seed=7))
    assert not torch.equal(labels(), labels(corruption_seed=1))


def test_duplicates_keep_the_size_and_their_labels() -> None:
    parts = (numbered(1001), numbered(10))
    data = ImageData(given(duplicates=4, label_noise=0.2), seed=0, parts=parts)
    assert len(data.train) == 1001
    rows, copies = numbers(data.train).unique(return_counts=True)
    assert len(rows) == 251  # the last of them fill up to 1001
    assert set(copies.tolist()) <= {3, 4}
    labels = {row: data.train.labels[numbers(data.train) == row].unique() for row in rows.tolist()}
    assert all(len(found) == 1 for found in labels.values())  # copies agree, right or wrong
    wrong = sum(found.item() != row % 10 for row, found in labels.items())
    assert wrong == round(0.2 * 251)


def test_validation_split_is_clean_and_apart() -> None:
    parts = (numbered(1000), numbered(10))
    data = ImageData(given(val_fraction=0.2, label_noise=0.5, duplicates=2), seed=0, parts=parts)
    assert len(data.curve) == 200
    assert len(data.train) == 800
    assert torch.equal(data.curve.labels, numbers(data.curve) % 10)
    assert not set(numbers(data.curve).tolist()) & set(numbers(data.train).tolist())


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4, 1.0])
def test_exactly_the_fraction_of_images_is_spoilt(noise: float) -> None:
    data = ImageData(digits(pixel_noise=noise), seed=0, parts=(CLEAN, TEST))
    changed = (data.train.pixels != CLEAN.pixels).flatten(1).any(1)
    assert changed.sum() == data.corrupted.sum() == round(noise * len(CLEAN))
    assert torch.equal(changed, data.corrupted)
    assert torch.equal(data.train.labels, CLEAN.labels)
    assert torch.equal(data.test.pixels, TEST.pixels)
    assert torch.equal(data.train.pixels.flatten(1).sort().values, CLEAN.pixels.flatten(1).sort().values)


def test_pixels_of_a_place_stay_together_and_images_are_shuffled_differently() -> None:
    places = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    images = Images(places.expand(20, 3, 8, 8).contiguous(), torch.zeros(20, dtype=torch.long), 2)
    spoilt, rows = shuffle_pixels(images, 1.0, torch.Generator().manual_seed(0))
    assert rows.all()
    assert (spoilt.pixels == spoilt.pixels[:, :1]).all()
    assert len(spoilt.pixels.flatten(1).unique(dim=0)) == 20


def test_rows_know_their_corruption_of_either_kind() -> None:
    data = ImageData(digits(label_noise=0.3, pixel_noise=0.2, duplicates=3), seed=0, parts=(CLEAN, TEST))
    wrong = data.train.labels != data.true_labels
    assert 0.25 < wrong.double().mean() < 0.35
    assert 0.4 < data.corrupted.double().mean() < 0.48  # 0.3 + 0.2 - 0.06, drawn independently
    assert (data.corrupted | ~wrong).all()
    first = torch.full((int(data.example.max()) + 1,), -1).scatter(0, data.example, data.corrupted.long())
    assert torch.equal(first[data.example].bool(), data.corrupted)  # copies share it


def test_held_out_rows_are_clean_and_apart_from_all_others() -> None:
    parts = (numbered(1000), numbered(10))
    settings = {"val_fraction": 0.1, "heldout_fraction": 0.2, "label_noise": 0.5}
    data = ImageData(given(**settings), seed=0, parts=parts)
    assert (len(data.curve), len(data.heldout), len(data.train)) == (100, 180, 720)
    sets = [set(numbers(part).tolist()) for part in (data.curve, data.heldout, data.train)]
    assert len(set.union(*sets)) == 1000
    assert torch.equal(data.heldout.labels, numbers(data.heldout) % 10)
    added = ImageData(given(**settings, heldout_trained=True), seed=0, parts=parts)
    assert len(added.train) == len(added.true_labels) == len(added.corrupted) == len(added.example.unique()) == 900
    assert torch.equal(added.train.labels[:720], data.train.labels)
    assert torch.equal(numbers(added.train)[720:], numbers(data.heldout))
    assert added.corrupted.sum() == data.corrupted.sum() == 360


def test_held_out_rows_can_be_of_the_same_corrupted_distribution() -> None:
    parts = (numbered(1000), numbered(10))
    settings = {"heldout_fraction": 0.2, "heldout_clean": False, "label_noise": 0.5}
    data = ImageData(given(**settings), seed=0, parts=parts)
    assert (data.heldout.labels != numbers(data.heldout) % 10).sum() == 100
    clean = ImageData(given(**{**settings, "heldout_clean": True}), seed=0, parts=parts)
    assert torch.equal(data.train.labels, clean.train.labels)
    added = ImageData(given(**settings, heldout_trained=True), seed=0, parts=parts)
    assert added.corrupted.sum() == 500
    assert torch.equal(added.true_labels, numbers(added.train) % 10)


def test_held_out_rows_are_no_rows_by_default() -> None:
    assert len(ImageData(digits(), seed=0, parts=(CLEAN, TEST)).heldout) == 0


def test_curves_fall_back_to_the_test_set() -> None:
    data = ImageData(digits(), seed=0, parts=(CLEAN, TEST))
    assert data.curve is data.test


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_noise": -0.1}, r"data\.label_noise must be a number between 0 and 1, received -0\.1"),
        ({"label_noise": "high"}, "received 'high'"),
        ({"label_noise": True}, "received True"),
        ({"pixel_noise": 1.1}, r"data\.pixel_noise must be a number between 0 and 1, received 1\.1"),
        ({"heldout_fraction": 1.0}, r"data\.heldout_fraction must be at least 0 and below 1, received 1\.0"),
        ({"heldout_trained": True}, r"received data\.heldout_fraction=0"),
        ({"duplicates": 0}, r"data\.duplicates .*received 0"),
        ({"duplicates": 1.5}, r"received 1\.5"),
        ({"val_fraction": 1.0}, r"below 1, received 1\.0"),
        ({"batch_size": 0}, r"data\.batch_size"),
        ({"crop": -1}, r"data\.crop"),
        ({"cutout": -1}, r"data\.cutout"),
    ],
)
def test_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        given(**change)


def test_more_copies_than_examples() -> None:
    with pytest.raises(UsageError, match="must not exceed the 10 training examples, received 11"):
        ImageData(given(duplicates=11), seed=0, parts=(numbered(10), numbered(10)))


def test_one_class_has_no_wrong_label() -> None:
    with pytest.raises(UsageError, match="at least 2 classes"):
        ImageData(given(label_noise=0.5), seed=0, parts=(numbered(10, classes=1), numbered(10)))


def corrupted(**changes: Any) -> ImageData:
    return ImageData(digits(**changes), seed=0, parts=(CLEAN, TEST))


def test_a_smaller_training_set_has_its_classes_alike() -> None:
    data = corrupted(train_examples=503)
    assert len(data.train) == 503
    counts = torch.bincount(data.train.labels, minlength=10)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(data.train.pixels, corrupted(train_examples=503).train.pixels)
    assert not torch.equal(data.train.pixels, corrupted(train_examples=503, corruption_seed=1).train.pixels)


def test_imbalance_is_exponential_and_leaves_the_test_set_alone() -> None:
    whole, thinned = corrupted(train_examples=1000), corrupted(train_examples=1000, imbalance=0.1)
    counts = torch.bincount(thinned.train.labels, minlength=10)
    assert counts.tolist() == [round(100 * 0.1 ** (label / 9)) for label in range(10)]
    assert len(thinned.test) == len(whole.test)


def test_what_an_oracle_trains_is_the_clean_part_of_what_others_train() -> None:
    noisy, clean = corrupted(label_noise=0.4), corrupted(label_noise=0.4, only_clean=True)
    kept = ~noisy.corrupted
    assert torch.equal(clean.train.pixels, noisy.train.pixels[kept])
    assert torch.equal(clean.train.labels, noisy.true_labels[kept])
    assert not clean.corrupted.any()
    assert clean.nominal_rows == len(noisy.train)  # budgets count what was left out


def test_more_examples_than_there_are() -> None:
    with pytest.raises(UsageError, match="must not exceed"):
        corrupted(train_examples=10**6)


@pytest.mark.parametrize(
    "change", [{"imbalance": 0.0}, {"imbalance": 1.5}, {"train_examples": 0}, {"candidates": 0}], ids=str
)
def test_refused_sizes(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"data\.\w+ must be"):
        corrupted(**change)
