"""Which classes a selection favours."""

import warnings

import pytest
import torch

from litselect.scoring.raters import KeptLabels

LABELS = torch.tensor([0] * 40 + [1] * 40 + [3] * 20)


def filled(kept: torch.Tensor, batches: int = 20) -> KeptLabels:
    labels = KeptLabels()
    for _ in range(batches):
        labels.update(LABELS, kept)
    return labels


def test_ratios_are_relative_to_a_fair_share() -> None:
    kept = torch.tensor([1.0] * 40 + [0.5] * 40 + [0.0] * 20)
    ratios = filled(kept).ratios()
    torch.testing.assert_close(ratios[[0, 1, 3]], torch.tensor([100 / 60, 50 / 60, 0.0], dtype=torch.float64))
    assert ratios[2].isnan()  # never came
    torch.testing.assert_close(filled(torch.ones(100)).ratios()[[0, 1, 3]], torch.ones(3, dtype=torch.float64))
    assert KeptLabels().ratios().shape == (0,)
    assert filled(torch.zeros(100)).ratios().isnan().all()
    assert len(str(filled(kept))) == 4


def test_negative_labels_are_of_no_class_and_new_ones_may_come() -> None:
    labels = KeptLabels()
    labels.update(torch.tensor([-100, -1]), torch.ones(2))
    assert labels.seen.tolist() == []
    labels.update(torch.tensor([0, -1], dtype=torch.int32), torch.tensor([1.0, 1.0]))
    labels.update(torch.tensor([], dtype=torch.long), torch.tensor([]))
    labels.update(torch.tensor([2]), torch.tensor([0.0]))
    assert labels.seen[[1, 2]].tolist() == [0, 1]
    assert labels.kept[2] == 0


def test_starved_classes_are_named_once() -> None:
    labels = filled(torch.tensor([1.0] * 80 + [0.0] * 19 + [1.0]))
    with pytest.warns(UserWarning, match=r"starves classes 3 \(6% of its share\). Stratified"):
        labels.warn()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels.warn()
        filled(torch.tensor([1.0] * 80 + [0.0] * 19 + [1.0]), 9).warn()  # too few rows to tell
        filled(torch.tensor([1.0] * 80 + [0.0] * 17 + [1.0] * 3)).warn()  # 18% of its share


def test_old_batches_fade() -> None:
    labels = filled(torch.tensor([1.0] * 40 + [0.0] * 60), 1000)
    for _ in range(3000):
        labels.update(LABELS, torch.ones(100))
    assert labels.ratios()[1] > 0.9


def test_the_state_is_all() -> None:
    kept = torch.tensor([1.0] * 80 + [0.0] * 20)
    labels, again = filled(kept, 39), KeptLabels()
    again.load_state_dict(labels.state_dict())
    for one in (labels, again):
        one.update(LABELS, kept)
    assert labels.ratios().nan_to_num(-1).equal(again.ratios().nan_to_num(-1))
    with pytest.warns(UserWarning, match="starves"):
        labels.warn()
    again.load_state_dict(labels.state_dict())
    again.warn()  # was said
