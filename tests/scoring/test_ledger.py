"""Per-example memory: against a slow reference, its size, its files."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from litselect.scoring import Ledger
from litselect.scoring import ledger as module

SIZE = 12
batches = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, SIZE - 1), st.floats(0, 9, width=32), st.floats(0, 1, width=16), st.booleans(), st.booleans()
        ),
        min_size=1,
        max_size=SIZE,
        unique_by=lambda entry: entry[0],
    ),
    max_size=8,
)


def recorded(entries: Any, ledger: Ledger | None = None, step: int = 0) -> Ledger:
    ledger = Ledger(SIZE) if ledger is None else ledger
    for at, batch in enumerate(entries):
        ids, losses, likely, correct, trained = (torch.tensor(column) for column in zip(*batch, strict=True))
        ledger.see(ids)
        ledger.train(ids[trained])
        ledger.score(ids[~trained])
        ledger.record(ids, losses, likely, step + at)
        ledger.predict(ids, likely, correct, step + at)
    return ledger


@settings(deadline=None, max_examples=60)
@given(batches)
def test_it_is_what_a_dictionary_would_be(entries: Any) -> None:
    ledger, slow = (
        recorded(entries),
        [
            {
                "loss": math.nan,
                "smoothed": math.nan,
                "step": -1,
                "first_learned": -1,
                "learned": False,
                "confidence": 0.0,
            }
            | dict.fromkeys(("seen", "scored", "trained", "forgotten"), 0)
            for _ in range(SIZE)
        ],
    )
    for step, batch in enumerate(entries):
        for i, loss, likely, correct, trained in batch:
            row = slow[i]
            row["smoothed"] = loss if math.isnan(row["loss"]) else 0.9 * row["smoothed"] + 0.1 * loss
            row |= {"loss": loss, "step": step, "confidence": likely * correct}
            row["seen"] += 1
            row["trained" if trained else "scored"] += 1
            row["forgotten"] += row["learned"] and not correct
            row["first_learned"] = step if correct and row["first_learned"] < 0 else row["first_learned"]
            row["learned"] = correct
    for name in slow[0]:
        expected = torch.tensor([float(row[name]) for row in slow])
        torch.testing.assert_close(getattr(ledger, name).float(), expected, equal_nan=True, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_average_begins_anew_after_a_loss_that_is_no_number(broken: float) -> None:
    ledger = Ledger(1)
    for step, loss in enumerate([1.0, broken, 2.0, 3.0]):
        ledger.record(torch.tensor([0]), torch.tensor([loss]), torch.tensor([0.5]), step)
    assert ledger.smoothed.item() == pytest.approx(0.9 * 2 + 0.1 * 3)


def test_eight_numbers_of_four_bytes_an_example() -> None:
    state = Ledger(1000).state_dict()
    assert sum(tensor.element_size() for tensor in state.values()) <= 8 * 4
    assert all(tensor.shape == (1000,) for tensor in state.values())


def test_an_id_that_comes_twice_in_a_batch_counts_twice() -> None:
    ledger = Ledger(3)
    ledger.see(torch.tensor([1, 1, 2]))
    assert ledger.seen.tolist() == [0, 2, 1]


@pytest.mark.parametrize("rows", [300, 5000])
def test_counts_stop_rather_than_turn_negative(rows: int) -> None:
    ledger = Ledger(1)
    for _ in range(200):
        ledger.see(torch.zeros(rows, dtype=torch.int64))
    assert 30_000 < int(ledger.seen) < 2**15


def test_they_would_turn_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2**16)
    ledger = Ledger(1)
    for _ in range(200):
        ledger.see(torch.zeros(300, dtype=torch.int64))
    assert int(ledger.seen) < 30_000


# ---------------------------------------------------------------------- merging


@settings(deadline=None, max_examples=40)
@given(batches, st.randoms(use_true_random=False))
def test_shards_of_the_data_merge_into_what_one_process_would_know(entries: Any, random: Any) -> None:
    """Every example comes to one rank an epoch; an epoch is one batch here."""
    whole, ranks = Ledger(SIZE), [Ledger(SIZE) for _ in range(3)]
    for epoch, batch in enumerate(entries):
        recorded([batch], whole, step=epoch)
        shards: list[list[Any]] = [[] for _ in ranks]
        for entry in batch:
            random.choice(shards).append(entry)
        for rank, shard in zip(ranks, shards, strict=True):
            recorded([shard] if shard else [], rank, step=epoch)
        merged = Ledger(SIZE)
        merged.load_state_dict(ranks[0].state_dict())
        merged.merge(ranks[1:])
        for rank in ranks:
            rank.load_state_dict(merged.state_dict())
    for name, expected in whole.state_dict().items():
        torch.testing.assert_close(getattr(ranks[0], name), expected, equal_nan=True)


# ---------------------------------------------------------------------- state and files


def test_state() -> None:
    ledger, other = recorded([[(3, 1.5, 0.5, True, False)]]), Ledger(SIZE)
    state = ledger.state_dict()
    other.load_state_dict(state)
    ledger.see(torch.tensor([3]))
    assert int(state["seen"][3]) == int(other.seen[3]) == 1  # copies
    assert other.loss[3] == 1.5


@pytest.mark.parametrize("change", [{"loss": None}, {"loss": torch.zeros(SIZE, dtype=torch.float64)}, {"more": 1}])
def test_a_state_of_something_else_is_refused(change: dict[str, Any]) -> None:
    state: dict[str, Any] = Ledger(SIZE).state_dict()
    for name, value in change.items():
        state[name] = torch.zeros(SIZE) if isinstance(value, int) else value
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(ValueError, match="The state of a ledger holds loss"):
        Ledger(SIZE).load_state_dict(state)


@pytest.mark.parametrize(("size", "smoothing"), [(0, 0.9), (-1, 0.9), (1, 1.0), (1, -0.1)])
def test_bad_settings(size: int, smoothing: float) -> None:
    with pytest.raises(ValueError, match="but got"):
        Ledger(size, smoothing=smoothing)


def test_it_grows() -> None:
    ledger = recorded([[(3, 1.5, 0.5, True, False)]])
    ledger.grow(20)
    assert (ledger.size, ledger.loss.shape, int(ledger.seen[3])) == (20, (20,), 1)
    assert ledger.loss[SIZE:].isnan().all()
    ledger.grow(5)
    assert ledger.size == 20


def test_csv(tmp_path: Path) -> None:
    ledger = recorded([[(3, 1.5, 0.5, True, False)]])
    ledger.export(tmp_path / "ledger.csv")
    with (tmp_path / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(SIZE))
    assert (rows[3]["loss"], rows[3]["learned"], rows[0]["loss"]) == ("1.5", "True", "nan")


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    ledger = recorded([[(3, 1.5, 0.5, True, False)]])
    ledger.export(tmp_path / "ledger.parquet")
    assert parquet.read_table(tmp_path / "ledger.parquet").to_pydict()["loss"][3] == 1.5


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install pyarrow.*\.csv"):
        Ledger(3).export(tmp_path / "ledger.parquet")


def test_growing_to_no_more_copies_nothing() -> None:
    ledger = Ledger(4)
    before = ledger.loss
    for size in (1, 4):
        ledger.grow(size)
        assert ledger.loss is before
    ledger.grow(5)
    assert len(ledger.loss) == ledger.size == 5
