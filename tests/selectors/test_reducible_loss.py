"""RHO-LOSS, against a loop over examples; tables from everywhere, and what is wrong with them."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from litselect.selectors import ReducibleLoss, TopLoss

LOSSES = torch.tensor([0.1, 3.0, 2.0, 0.2])
IDS = torch.tensor([7, 2, 5, 0])
TABLE = torch.tensor([0.5, 0.0, 2.95, 0.0, 0.0, 0.1, 0.0, 0.0])
CHOSEN = [0, 2]  # reducible: .1, .05, 1.9, -.3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_it_equals_a_loop_over_examples(data: st.DataObject) -> None:
    quarter = st.integers(0, 40).map(lambda i: i / 4)  # differences are exact, and there are ties
    table = data.draw(st.lists(quarter, min_size=1, max_size=20))
    ids = data.draw(st.lists(st.integers(0, len(table) - 1), min_size=1, max_size=12))
    losses = data.draw(st.lists(quarter, min_size=len(ids), max_size=len(ids)))
    selector = ReducibleLoss(data.draw(st.floats(0.05, 1)), torch.tensor(table))
    score = [loss - table[i] for loss, i in zip(losses, ids, strict=True)]
    order = sorted(range(len(ids)), key=lambda i: (-score[i], i))
    chosen = selector(losses=torch.tensor(losses), ids=torch.tensor(ids)).indices.tolist()
    assert chosen == sorted(order[: max(1, round(selector.keep * len(ids)))])


def test_tables_from_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "irreducible.safetensors"
    save_file({"anything": TABLE}, path)
    seen: list[Tensor] = []

    def live(ids: Tensor) -> Tensor:
        seen.append(ids)
        return TABLE[ids].requires_grad_()

    for given_as in (TABLE, TABLE.double(), TABLE.half(), path, str(path), live):
        assert ReducibleLoss(0.5, given_as)(losses=LOSSES, ids=IDS).indices.tolist() == CHOSEN
    assert len(seen) == 1
    assert seen[0].equal(IDS)
    assert TopLoss(0.5)(losses=LOSSES).indices.tolist() != CHOSEN


def test_large_ids_are_exact() -> None:
    """Ids that single precision can't tell apart."""
    table = torch.zeros(2**24 + 2)
    table[2**24] = 5.0
    ids = torch.tensor([2**24, 2**24 + 1])
    assert ReducibleLoss(0.5, table)(losses=torch.ones(2), ids=ids).indices.tolist() == [1]


@pytest.mark.parametrize("wrong", [-1, 8, 70_000])
def test_ids_outside_the_table_are_refused(wrong: int) -> None:
    ids = torch.tensor([0, wrong, 2, 3])
    with pytest.raises(ValueError, match=rf"known for ids 0 to 7, but 1 of 4 ids are outside .*{wrong}"):
        ReducibleLoss(0.5, TABLE)(losses=LOSSES, ids=ids)


@pytest.mark.parametrize("hole", [math.nan, math.inf])
def test_holes_are_refused_where_they_are_hit(hole: float) -> None:
    table = TABLE.clone()
    table[5] = hole
    selector = ReducibleLoss(0.5, table)
    assert len(selector(losses=LOSSES[:2], ids=IDS[:2])) == 1
    with pytest.raises(ValueError, match=r"1 of 4 examples have no finite irreducible loss \(the first has id 5\)"):
        selector(losses=LOSSES, ids=IDS)
    with pytest.raises(ValueError, match="no finite irreducible loss"):
        ReducibleLoss(0.5, lambda ids: table[ids])(losses=LOSSES, ids=IDS)


def test_a_function_must_answer_for_every_id() -> None:
    with pytest.raises(ValueError, match=r"for each of 4 ids, but the function answered with shape \(8,\)"):
        ReducibleLoss(0.5, lambda ids: TABLE)(losses=LOSSES, ids=IDS)


@pytest.mark.usefixtures("any_shape")
@pytest.mark.parametrize(
    "wrong", [None, 3.0, torch.zeros(0), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), {"a": TABLE}]
)
def test_what_is_no_table_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"expected a float tensor \[M\], the path"):
        ReducibleLoss(0.5, wrong)  # pyright: ignore


def test_only_safetensors_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "irreducible.pt"
    torch.save(TABLE, path)
    with pytest.raises(ValueError, match=r"can't run code, but got .*irreducible.pt"):
        ReducibleLoss(0.5, path)
    disguised = tmp_path / "pickle.safetensors"
    torch.save(TABLE, disguised)
    with pytest.raises(Exception, match=r"(?i)header|deserial|invalid"):
        ReducibleLoss(0.5, disguised)
    several = tmp_path / "several.safetensors"
    save_file({"b": TABLE, "a": TABLE.clone()}, several)
    with pytest.raises(ValueError, match=r"found \['a', 'b'\]. Save the losses alone"):
        ReducibleLoss(0.5, several)


def test_the_repr_is_short() -> None:
    assert repr(ReducibleLoss(0.5, TABLE)) == "ReducibleLoss(keep=0.5, irreducible=<8 losses>)"
