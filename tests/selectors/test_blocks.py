"""Choices of several batches at once are those of each by itself, to the bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from litselect.selectors import KeepUnlearned, LossPercentile, Selection, Selector, loss_percentile
from tests.selectors.registry import CASES

UNKNOWN = torch.finfo(torch.float32).max

SELECTORS: dict[str, Callable[[], Selector]] = {
    "LossPercentile": lambda: LossPercentile(0.4, seed=3),
    "LossPercentile, floor": lambda: LossPercentile(0.3, floor=0.1, seed=4),
    "LossPercentile, all alike": lambda: LossPercentile(beta=0.0, seed=5),
    "LossPercentile, steep": lambda: LossPercentile(0.02, seed=6),
    "KeepUnlearned": KeepUnlearned,
    "KeepUnlearned, mild": lambda: KeepUnlearned(0.05, 0.5),
}


def test_these_are_all_that_take_blocks() -> None:
    takers = {type(made).__name__ for made in (case.make(0.5, 0) for case in CASES) if made.takes_blocks}
    assert takers == {name.partition(",")[0] for name in SELECTORS}


def scores(batches: int, rows: int, unknown: float, ties: bool, seed: int) -> dict[str, Tensor]:
    """Of B batches of N rows, some of whose losses are not known, or equal. In some batches all losses are known."""
    stream = torch.Generator().manual_seed(seed)
    ranks = torch.rand(batches, rows, generator=stream) * (1 - 2**-24)
    ranks = ranks.mul(3).floor().div(3) if ties else ranks
    never = torch.rand(batches, rows, generator=stream) < unknown * torch.randint(2, (batches, 1), generator=stream)
    return {
        "losses": (ranks * 4).masked_fill(never, UNKNOWN),
        "percentiles": ranks.masked_fill(never, 1.0),
        "ids": torch.randint(1000, (batches, rows), generator=stream),
    }


def one_by_one(selector: Selector, k: int, known: dict[str, Tensor], epoch: int) -> list[Selection]:
    chosen: list[Selection] = []
    for place in range(len(known["ids"])):
        selector.draw_for(epoch, place)
        chosen.append(selector(k=k, **{name: values[place] for name, values in known.items()}))
    return chosen


def at_once(selector: Any, k: int, known: dict[str, Tensor], epoch: int) -> list[Selection]:
    taken = {name: known[name] for name in selector.uses(known.keys())}
    return selector.select_block(k, [(epoch, place) for place in range(len(known["ids"]))], **taken)


def bits(selections: list[Selection]) -> list[Any]:
    return [(own.indices.tolist(), None if own.inclusion is None else own.inclusion.tolist()) for own in selections]


@pytest.mark.parametrize("name", SELECTORS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 9),
    st.integers(1, 70),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
    st.integers(0, 99),
    st.data(),
)
def test_at_once_is_one_by_one(
    name: str, batches: int, rows: int, unknown: float, ties: bool, seed: int, data: st.DataObject
) -> None:
    known, k = scores(batches, rows, unknown, ties, seed), data.draw(st.integers(1, rows))
    one, other = SELECTORS[name](), SELECTORS[name]()
    one.at(None, seed % 5, None)
    other.at(None, seed % 5, None)
    assert bits(at_once(one, k, known, seed % 5)) == bits(one_by_one(other, k, known, seed % 5))
    assert str(one.state_dict()) == str(other.state_dict())


def test_what_is_rounded_with_other_batches_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control for `by_batch`."""
    monkeypatch.setattr(loss_percentile, "by_batch", lambda function, values: function(values))
    select, differ = LossPercentile(0.3, seed=4), 0
    for seed in range(20):
        known = scores(3, 9, 0.0, False, seed)
        differ += bits(at_once(select, 3, known, 0)) != bits(one_by_one(select, 3, known, 0))
    assert differ


def test_draws_of_another_batch_would_be_noticed() -> None:
    """The negative control of the test above."""
    known, select = scores(3, 20, 0.3, False, 0), LossPercentile(0.4, seed=3)
    places = [(1, place) for place in (1, 0, 2)]
    mixed = select.select_block(8, places, percentiles=known["percentiles"])
    assert bits(mixed)[2:] == bits(one_by_one(select, 8, known, 1))[2:]
    assert bits(mixed)[:2] != bits(one_by_one(select, 8, known, 1))[:2]


def test_someone_s_own_choice_is_not_that_of_the_class_it_extends() -> None:
    class Own(KeepUnlearned):
        def select(self, k: int, *, losses: Tensor) -> Selection:
            return Selection(torch.arange(k))

    class Drawing(LossPercentile):
        def select(self, k: int, *, percentiles: Tensor) -> Selection:
            return Selection(torch.arange(k))

    assert not Own().takes_blocks
    assert not Drawing(0.5).takes_blocks


def test_independent_draws_are_made_one_by_one() -> None:
    assert not LossPercentile(0.5, fixed_size=False).takes_blocks


def test_whoever_does_without_is_not_asked() -> None:
    with pytest.raises(NotImplementedError):
        LossPercentile.__mro__[1].select_block(LossPercentile(0.5), 1, [])  # type: ignore[attr-defined]
