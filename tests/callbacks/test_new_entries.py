"""What steps tell of their rows is entered many batches at a time, and found as if it had been entered at once."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from litselect.callbacks import new_entries
from litselect.callbacks.example_tables import ExampleTables
from litselect.callbacks.new_entries import NewEntries
from litselect.scoring import Scores
from litselect.scoring.ledger import FIELDS

SIZE, BATCH, CLASSES = 40, 8, 3


def epoch(seed: int, *, repeats: bool) -> Iterator[tuple[Tensor, Tensor, Scores]]:
    """Ids that were sent for, those that were trained, and what the step told of them."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randint(SIZE, (SIZE,), generator=generator) if repeats else torch.randperm(SIZE, generator=generator)
    for sent in order.split(BATCH):
        ids = sent[torch.rand(len(sent), generator=generator) < 0.6]
        logits = torch.randn(len(ids), CLASSES, generator=generator)
        targets = torch.randint(CLASSES, (len(ids),), generator=generator)
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        yield sent, ids, Scores(losses, logits, targets)


def told(*, at_once: bool, repeats: bool = False, epochs: int = 4) -> ExampleTables:
    tables = ExampleTables(frozen=True)
    tables._make(SIZE)
    step = 0
    for number in range(epochs):
        tables.rank(step)
        for sent, ids, scores in epoch(number, repeats=repeats):
            step += 1
            tables.see(sent)
            tables.trained(ids, scores, step, None if at_once else sent)
            if at_once:
                assert tables.ledger.size == SIZE  # whoever reads has all of it entered
    return tables


def equal(tables: ExampleTables, others: ExampleTables) -> bool:
    mine, theirs = tables.ledger.state_dict(), others.ledger.state_dict()
    same = all(torch.equal(mine[name].nan_to_num(-7), theirs[name].nan_to_num(-7)) for name in FIELDS)
    assert tables.labels is not None
    assert others.labels is not None
    return same and torch.equal(tables.labels, others.labels)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("most", [1, 3, 64])
def test_all_of_it_is_found_to_the_last_digit(repeats: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_entries, "_BATCHES", most)
    assert equal(told(at_once=False, repeats=repeats), told(at_once=True, repeats=repeats))


def test_an_example_that_comes_twice_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two losses at once, one alone can be entered."""
    expected = told(at_once=True, repeats=True)
    monkeypatch.setattr(new_entries, "_distinct", lambda parts: True)
    assert not equal(told(at_once=False, repeats=True), expected)


def entered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many batches each entry holds that is made from now on."""
    found: list[int] = []
    enter = ExampleTables._enter

    def noting(tables: ExampleTables, entry: Any) -> None:
        found.append(len(entry.sizes))
        enter(tables, entry)

    monkeypatch.setattr(ExampleTables, "_enter", noting)
    return found


def test_many_batches_make_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    found = entered(monkeypatch)
    tables = told(at_once=False, epochs=1)
    assert found == []
    assert tables.ledger.trained.sum() > 0
    assert found == [SIZE // BATCH]
    assert tables.ledger.seen.tolist() == [1] * SIZE
    assert found == [SIZE // BATCH], "once"


def test_so_many_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    found = entered(monkeypatch)
    monkeypatch.setattr(new_entries, "_BATCHES", 2)
    told(at_once=False, epochs=1)
    assert found[:2] == [1, 2]
    found.clear()
    monkeypatch.setattr(new_entries, "_BATCHES", 64)
    monkeypatch.setattr(new_entries, "_NUMBERS", 1)
    told(at_once=False, epochs=1)
    assert found == [1] * (SIZE // BATCH - 1), "of many classes, few batches"


def test_batches_of_other_shapes_are_entered_one_by_one() -> None:
    new = NewEntries()
    for step, classes in enumerate([3, 3, 5]):
        ids = torch.tensor([2 * step, 2 * step + 1])
        new.add(ids, ids, Scores(torch.ones(2), torch.zeros(2, classes), torch.zeros(2, dtype=torch.int64)), step)
    assert [entry.sizes for entry in new.take()] == [[2], [2], [2]]
    assert new.empty


def test_what_waits_is_not_changed_by_the_next_step() -> None:
    """As one does that writes its results where the last one did."""
    tables, losses = ExampleTables(frozen=True), torch.tensor([1.0, 2.0])
    tables._make(4)
    for step, ids in enumerate([torch.tensor([0, 1]), torch.tensor([2, 3])]):
        losses.fill_(step + 1.0)
        tables.trained(ids, Scores(losses), step, ids)
    assert tables.ledger.loss.tolist() == [1, 1, 2, 2]
