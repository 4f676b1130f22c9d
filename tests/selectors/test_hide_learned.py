"""KAKURENBO's rule against a loop over rows; how old a hidden loss gets; what the learning rate is raised by."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from litselect.selectors import HideLearned

UNKNOWN = torch.finfo(torch.float32).max


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_it_equals_a_loop_over_rows(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))

    def column(values: st.SearchStrategy[float]) -> list[float]:
        return data.draw(st.lists(values, min_size=n, max_size=n))

    losses = column(st.one_of(st.integers(0, 6).map(float), st.just(UNKNOWN)))
    percentiles = column(st.integers(0, 10).map(lambda i: i / 10))
    confidences = column(st.integers(0, 10).map(lambda i: i / 10))
    ages = column(st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf]))
    fraction, refresh = data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9])), data.draw(st.integers(1, 3))
    ranked, aged = data.draw(st.booleans()), data.draw(st.booleans())
    trained = []
    for i in range(n):
        below = sum(x < losses[i] for x in losses)
        rank = percentiles[i] if ranked else (below + losses.count(losses[i]) / 2) / n
        low = rank < fraction and (ranked or losses[i] < UNKNOWN)
        sure = torch.tensor(confidences[i]) >= 0.6
        fresh = ages[i] <= refresh if aged else True
        if not (low and sure and fresh):
            trained.append(i)
    select = HideLearned(fraction, 0.6, refresh=refresh)
    chosen = select(
        losses=None if ranked and data.draw(st.booleans()) else torch.tensor(losses),
        percentiles=torch.tensor(percentiles) if ranked else None,
        confidences=torch.tensor(confidences),
        ages=torch.tensor(ages) if aged else None,
    )
    assert chosen.indices.tolist() == trained
    assert chosen.weights is None


def test_the_fraction_shrinks_as_published() -> None:
    """200 epochs: from 60, 120 and 160 on 0.8, 0.6 and 0.4 of it."""
    select = HideLearned(0.3)
    select.epochs = 200
    found = {}
    for select.epoch in range(200):
        found.setdefault(round(select.current_fraction / 0.3, 9), select.epoch)
    assert found == {1.0: 0, 0.8: 60, 0.6: 120, 0.4: 160}
    select.epochs = 10
    firsts = [select.current_fraction for select.epoch in (2, 3, 5, 6, 7, 8)]
    assert firsts == pytest.approx([0.3, 0.24, 0.24, 0.18, 0.18, 0.12])
    select.epochs = None
    for select.progress, factor in ((0.0, 1), (0.29, 1), (0.3, 0.8), (0.6, 0.6), (0.8, 0.4), (1.0, 0.4)):
        assert select.current_fraction == pytest.approx(0.3 * factor)


def test_the_current_fraction_is_what_is_hidden() -> None:
    select = HideLearned(0.5)
    inputs = {"percentiles": (torch.arange(100) + 0.5) / 100, "confidences": torch.ones(100)}
    assert len(select(**inputs)) == 50
    select.progress = 0.9
    assert len(select(**inputs)) == 80


@pytest.mark.parametrize("refresh", [1, 2, 3])
def test_no_loss_gets_older_than_refresh(refresh: int) -> None:
    """Learned rows, trained whenever they are chosen: hidden `refresh` epochs, trained in the next."""
    select = HideLearned(0.9, refresh=refresh)
    ages = torch.full((6,), torch.inf)
    trained = []
    for epoch in range(12):
        select.epoch = epoch
        chosen = select(percentiles=torch.full((6,), 0.1), confidences=torch.ones(6), ages=ages).indices
        trained.append(len(chosen) == 6)
        ages[chosen] = 0
        ages += 1
        assert ages.max() <= refresh + 1
    assert trained == [epoch % (refresh + 1) == 0 for epoch in range(12)]


def test_rows_without_a_known_loss_are_trained() -> None:
    """Also where all of a batch are unknown, so that their equal losses have a middling rank."""
    losses, sure = torch.full((4,), UNKNOWN), torch.ones(4)
    assert len(HideLearned(0.9)(losses=losses, confidences=sure)) == 4
    assert len(HideLearned(0.9)(losses=torch.ones(4), confidences=sure)) == 0
    known = torch.tensor([0.1, 0.2, 0.3, 0.4])
    ages = torch.tensor([0.0, torch.inf, 0.0, 0.0])
    assert HideLearned(0.9)(losses=known, confidences=sure, ages=ages).indices.tolist() == [1]
    percentiles = torch.tensor([0.1, 1.0, 0.2, 0.3])
    assert HideLearned(0.9)(percentiles=percentiles, confidences=sure).indices.tolist() == [1]


def test_what_it_needs() -> None:
    rank, sure = torch.rand(3), torch.ones(3)
    assert HideLearned().needs == {"losses", "confidences"}
    with pytest.raises(ValueError, match="confidences was not given"):
        HideLearned()(losses=rank)
    with pytest.raises(ValueError, match="losses was not given"):
        HideLearned()(confidences=sure)
    broken = torch.tensor([0.1, math.nan, 0.2])
    for inputs in (
        {"percentiles": broken, "confidences": sure},
        {"percentiles": rank, "confidences": broken},
        {"percentiles": rank, "confidences": sure, "ages": broken},
    ):
        with pytest.raises(ValueError, match="1 of 3 rows are NaN"):
            HideLearned()(**inputs)  # pyright: ignore
    HideLearned()(percentiles=rank, confidences=sure, losses=broken)  # not looked at


@pytest.mark.parametrize(
    "wrong",
    [
        {"fraction": 1.0},
        {"fraction": -0.1},
        {"fraction": math.nan},
        {"confidence": 0.0},
        {"confidence": 1.1},
        {"refresh": 0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"but got .*{name}={value}"):
        HideLearned(**wrong)  # pyright: ignore
