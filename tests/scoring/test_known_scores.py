"""Ranks over the data set, and ages."""

import math

import pytest
import torch

from litselect.scoring import Ledger
from litselect.scoring.known_scores import UNKNOWN_LOSS, KnownScores

ALL = torch.arange(5)


def ledger() -> Ledger:
    """Five examples, of which the last has never been seen."""
    found = Ledger(5)
    found.record(torch.arange(4), torch.tensor([4.0, 1.0, 1.0, 2.0]), torch.tensor([0.1, 0.9, 0.8, 0.5]), 3)
    return found


def test_ranks_are_those_of_the_last_losses() -> None:
    known = KnownScores(ledger())
    known.begin_epoch(4)
    assert known.of(ALL)["percentiles"].tolist() == [0.875, 0.25, 0.25, 0.625, 1.0]
    assert known.mean_loss == 2
    assert known.of(ALL)["losses"].tolist() == [4, 1, 1, 2, UNKNOWN_LOSS]


def test_only_what_is_asked_for() -> None:
    known = KnownScores(ledger())
    known.begin_epoch(4)
    everything = known.of(ALL)
    assert everything.keys() == {"ids", "losses", "percentiles", "confidences", "ages", "mean_loss"}
    part = known.of(ALL, {"percentiles", "ratings"})
    assert part.keys() == {"ids", "percentiles", "mean_loss"}
    assert torch.equal(part["percentiles"], everything["percentiles"])


def test_what_was_not_renewed_rises_while_losses_fall() -> None:
    book = ledger()
    known = KnownScores(book)
    for epoch, losses in enumerate(([3.0, 1.5], [2.0, 0.9], [0.5, 0.4])):  # of the examples 0 and 3
        book.record(torch.tensor([0, 3]), torch.tensor(losses), torch.tensor([0.9, 0.5]), 4 + epoch)
        known.begin_epoch(5 + epoch)
    ranks = known.of(ALL)["percentiles"]
    assert ranks[1] == ranks[2] > ranks[0] > ranks[3]  # the easiest at first


def test_one_is_kept_for_the_unknown() -> None:
    many = Ledger(2**18)
    many.record(torch.arange(2**18), torch.rand(2**18), torch.rand(2**18), 0)
    known = KnownScores(many)
    known.begin_epoch(1)
    ranks = known.of(torch.arange(2**18))["percentiles"]
    assert ranks.max() < 1
    assert abs(float(ranks.mean()) - 0.5) < 1e-3


def test_ages() -> None:
    book = ledger()
    known = KnownScores(book)
    for step in (0, 4, 8):
        known.begin_epoch(step)
    assert known.ages(ALL).tolist() == [2, 2, 2, 2, math.inf]
    book.record(torch.tensor([1, 2]), torch.ones(2), torch.ones(2), 8)
    book.record(torch.tensor([0]), torch.ones(1), torch.ones(1), 7)
    assert known.ages(ALL).tolist() == [1, 0, 0, 2, math.inf]


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_scores_are_those_of_the_beginning(frozen: bool) -> None:
    book = ledger()
    known = KnownScores(book, frozen=frozen)
    known.begin_epoch(4)
    book.record(ALL, torch.zeros(5), torch.zeros(5), 4)
    found = known.of(ALL)
    assert (found["losses"].tolist() == [4, 1, 1, 2, UNKNOWN_LOSS]) == frozen
    assert found["percentiles"].tolist() == [0.875, 0.25, 0.25, 0.625, 1.0]


@pytest.mark.parametrize("frozen", [False, True])
def test_state(frozen: bool) -> None:
    book = ledger()
    known, other = KnownScores(book, frozen=frozen), KnownScores(book, frozen=frozen)
    known.begin_epoch(4)
    other.load_state_dict(known.state_dict())
    for name, value in known.of(ALL).items():
        assert torch.equal(torch.as_tensor(other.of(ALL)[name]), torch.as_tensor(value))


def test_examples_that_come_later_are_not_known() -> None:
    book = ledger()
    known = KnownScores(book)
    known.begin_epoch(4)
    book.grow(8)
    assert known.of(torch.tensor([0, 7]))["percentiles"].tolist() == [0.875, 1.0]


# ---------------------------------------------------------------------- where a new loss stands


def test_rank_among_the_known() -> None:
    known = KnownScores(ledger())
    known.begin_epoch(4)
    assert known.rank(torch.tensor([9.0, 3.0, 1.0, 0.0])).tolist() == pytest.approx([0.9, 0.7, 0.3, 0.1])
    known.ledger.record(ALL, torch.full((5,), 20.0), torch.ones(5), 4)
    assert known.rank(torch.tensor([9.0])).item() == pytest.approx(0.9), "the known are those of the epoch's beginning"


def test_rank_in_the_first_epoch_is_that_in_the_batch() -> None:
    known = KnownScores(Ledger(5))
    for begin in (False, True):
        if begin:
            known.begin_epoch(0)
        assert known.rank(torch.tensor([7.0, 3.0, 3.0, 5.0])).tolist() == pytest.approx([0.8, 0.3, 0.3, 0.6])


def test_no_rank_of_a_loss_is_one() -> None:
    known = KnownScores(ledger())
    known.load_state_dict({**known.state_dict(), "sorted": torch.zeros(2**25)})
    assert known.rank(torch.tensor([1.0])) < 1


def test_ranks_go_on_from_a_state() -> None:
    """Although the ledger itself has gone on."""
    book = ledger()
    known, other = KnownScores(book), KnownScores(book)
    known.begin_epoch(4)
    book.record(ALL, torch.arange(5.0), torch.zeros(5), 4)
    other.load_state_dict(known.state_dict())
    losses = torch.tensor([0.5, 1.5, 3.0])
    assert torch.equal(other.rank(losses), known.rank(losses))
    other.begin_epoch(5)
    assert not torch.equal(other.rank(losses), known.rank(losses))
