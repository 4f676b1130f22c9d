"""What judges is not trained."""

from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from litselect.scoring.meta_training.held_out import carve, require_apart

DATA = TensorDataset(torch.arange(100)[:, None])


def rows(loader: Any) -> list[int]:
    return [int(row) for batch in loader for row in batch[0]]


def test_a_fraction_is_taken_out_by_index() -> None:
    given = DataLoader(DATA, 16, drop_last=True, collate_fn=lambda items: [torch.stack([item[0] for item in items])])
    train, heldout = carve(given, 0.1, seed=3)
    assert (len(train.dataset), len(heldout.dataset)) == (90, 10)  # type: ignore[arg-type]
    assert sorted({*rows(DataLoader(train.dataset)), *rows(DataLoader(heldout.dataset))}) == list(range(100))
    assert (train.batch_size, heldout.batch_size) == (16, 10)
    assert train.drop_last
    assert train.collate_fn is given.collate_fn
    assert sorted(rows(heldout)) == sorted(rows(carve(given, 0.1, seed=3)[1]))
    assert sorted(rows(heldout)) != sorted(rows(carve(given, 0.1, seed=4)[1]))
    assert rows(train) != sorted(rows(train))  # shuffled
    require_apart(heldout, {"training": train})


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(DATA)


@pytest.mark.parametrize(
    "loader",
    [
        [torch.zeros(3)],
        DataLoader(Stream(), 4),
        DataLoader(DATA, 4, sampler=WeightedRandomSampler([1.0] * 100, 100)),
        DataLoader(DATA, batch_sampler=[[1, 2], [3]]),
        DataLoader(DATA, batch_size=None),
    ],
)
def test_what_has_no_index_can_not_be_carved(loader: Any) -> None:
    with pytest.raises(ValueError, match=r"needs a torch DataLoader.*but got a .*Pass loaders of two parts"):
        carve(loader, 0.1, 0)


@pytest.mark.parametrize("fraction", [0.0, 1, 1.0, 0.001, -0.1, 7])
def test_both_sides_need_examples(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"leave examples on both sides, but got {fraction} of 100 examples. Pass"):
        carve(DataLoader(DATA, 4), fraction, 0)


SAME = DataLoader(DATA, 4)


@pytest.mark.parametrize(
    ("heldout", "train", "apart"),
    [
        (SAME, SAME, False),
        (DataLoader(DATA, 4), SAME, False),
        (DataLoader(Subset(DATA, [1, 2])), SAME, False),
        (SAME, DataLoader(Subset(DATA, [1, 2])), False),
        (DataLoader(Subset(DATA, [1, 2])), DataLoader(Subset(DATA, [2, 3])), False),
        (DataLoader(Subset(DATA, [1, 2])), DataLoader(Subset(DATA, [3, 4])), True),
        (DataLoader(Subset(DATA, torch.tensor([1, 2]))), DataLoader(Subset(DATA, torch.tensor([2, 3]))), False),  # type: ignore[arg-type]
        (DataLoader(Subset(Subset(DATA, [5, 6]), [1])), DataLoader(Subset(DATA, [6])), False),
        (DataLoader(Subset(Subset(DATA, [5, 6]), [1])), DataLoader(Subset(DATA, [1])), True),
        (DataLoader(TensorDataset(torch.zeros(3))), SAME, True),
        ([torch.zeros(3)], [torch.zeros(3)], True),
    ],
)
def test_examples_that_serve_twice_are_refused(heldout: Any, train: Any, apart: bool) -> None:
    if apart:
        require_apart(heldout, {"training": train})
    else:
        with pytest.raises(ValueError, match=r"serve nothing else, but .* used for training, too. Hold out others"):
            require_apart(heldout, {"training": train})


def test_parts_put_together_are_others() -> None:
    """Known limit: data sets behind a ConcatDataset are not looked at."""
    require_apart(SAME, {"training": DataLoader(ConcatDataset([DATA]))})
