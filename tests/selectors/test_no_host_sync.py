"""A selector of a fixed number of rows leaves its tensors where they are, and the host does not wait for them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from litselect.selectors import LossPercentile, Selection, TopLoss, pay_switch
from tests import shapes
from tests.host_syncs import Elsewhere, HostSyncs, elsewhere, here
from tests.selectors.case import Case
from tests.selectors.registry import CASES, WRAPPED_TWICE

CALLS, ROWS = 3, 16  # a history of 20 losses wraps

FREE_SIZE = {
    "LossPercentile-independent",
    "InfoBatch",
    "InfoBatch-normalised",
    "HideLearned",
    "KeepUnlearned",
    "Mixture-independent",
    "NoiseGuard-independent",
    "ShuffledScores-independent",
}
"""How many rows these choose, the scores decide: the host must learn the size of the answer."""

STRATIFIED = ["copy to the host"]  # the classes are dealt out by the host: one call of the wrapped selector for each
SHARE_OF_ALL = ["_local_scalar_dense"]  # how many of the candidates are among the top d of the whole data set
WAITS: dict[str, list[str]] = {
    "ReducibleLoss": ["_local_scalar_dense"],  # an example without an irreducible loss is an error, at once
    "NoiseGuard-auto": [
        "_local_scalar_dense",  # the largest label, for a table with a row for each class
        "index by a mask",  # which losses are remembered: the known ones
        "index by a mask",
        "_local_scalar_dense",  # the largest label among those
        "index by a mask",  # of more losses of a class than are remembered, the last ones
        "index by a mask",
        "index by a mask",
        "_local_scalar_dense",  # how many rows are withheld
    ],
    "Stratified": STRATIFIED,
    "Stratified-weighted": STRATIFIED,
}
"""What each call waits for, where it must."""


def expected(case: Case, extra: str | None) -> list[str]:
    """Of two wrappers, what either waits for; `Stratified` calls what it wraps once for each of the two classes."""
    if case.name in WAITS:
        return WAITS[case.name]
    outer, _, inner = case.name.removesuffix(")").partition("(")
    waits = {"Stratified": STRATIFIED, "NoiseGuard": SHARE_OF_ALL if extra == "percentiles" else []}
    return waits.get(outer, []) + waits.get(inner, []) * (2 if outer == "Stratified" else 1)


def inputs(case: Case, extra: str | None, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = dict(case.inputs(20 * torch.rand(ROWS, generator=generator)))
    if extra == "percentiles":
        given["percentiles"] = 0.99 * torch.rand(ROWS, generator=generator)
    if extra == "ages":
        given["ages"] = torch.zeros(ROWS)
    return given


@pytest.fixture(autouse=True)
def no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA, importance sampling has its answer copied while the batch is trained, and reads it at the next call."""
    monkeypatch.setattr(pay_switch, "_on_its_way_to_the_host", lambda flag: (here(flag).clone(), None))


FIXED = [
    pytest.param(case, extra, id=f"{case}-{extra}" if extra else str(case))
    for case in CASES + WRAPPED_TWICE
    if case.name not in FREE_SIZE
    for extra in (None, *case.also_takes)
]


@pytest.mark.parametrize(("case", "extra"), FIXED)
def test_a_fixed_number_of_rows_is_chosen_without_waiting(case: Case, extra: str | None) -> None:
    selector, on_cpu = case.fresh(), case.fresh()
    for call in range(CALLS):
        given = inputs(case, extra, call)
        with HostSyncs() as syncs, shapes.unchecked():
            chosen = selector(**elsewhere(given))
        if call:  # tables and rings go to the device with the first batch
            assert syncs.operations == expected(case, extra), syncs.found
        assert all(isinstance(part, Elsewhere) for part in vars(chosen).values() if part is not None)
        reference = on_cpu(**given)
        assert here(chosen.indices).equal(reference.indices), "and the choice is that of the CPU"


def test_of_the_others_the_size_depends_on_the_scores() -> None:
    assert {case.name for case in CASES if case.fresh().probabilistic} == FREE_SIZE
    for case in CASES:
        if case.name in FREE_SIZE:
            with HostSyncs() as syncs:
                case.fresh()(**elsewhere(inputs(case, None, 0)))
            assert "nonzero" in syncs.operations, case.name


# ---------------------------------------------------------------------- a wait would be noticed


class Waiting(TopLoss):
    def __init__(self, how: Any) -> None:
        super().__init__(0.5)
        self.how = how

    def select(self, k: int, *, losses: Tensor) -> Selection:
        self.how(losses)
        return super().select(k, losses=losses)


@pytest.mark.parametrize(
    ("how", "noticed"),
    [
        (lambda x: x.mean().item(), "_local_scalar_dense"),
        (lambda x: float(x[0]), "_local_scalar_dense"),
        (lambda x: bool((x > 0).all()), "_local_scalar_dense"),
        (lambda x: (x > 1).nonzero(), "nonzero"),
        (lambda x: torch.where(x > 1), "nonzero"),
        (lambda x: x[x > 1], "index by a mask"),
        (lambda x: x.clone().index_put_((x > -1,), x), "index_put_ by a mask"),
        (lambda x: x.masked_select(x > 1), "masked_select"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: x.unique_consecutive(), "unique_consecutive"),
        (lambda x: torch.equal(x, x + 1), "equal"),
        (lambda x: x.repeat_interleave((x > 1).long()), "repeat_interleave"),
        (lambda x: (x > 1).long().bincount(), "bincount"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.numpy(), "numpy"),
        (lambda x: x.cpu(), "copy to the host"),
        (lambda x: x.to("cpu", non_blocking=True), "unfinished copy to the host"),
        (lambda x: torch.zeros(ROWS).copy_(x), "copy to the host"),
        (lambda x: torch.zeros(ROWS).to(x.device), "copy to the device"),
        (lambda x: torch.zeros(ROWS).to(x), "copy to the device"),
        (lambda x: x.clone().copy_(torch.zeros(ROWS)), "copy to the device"),
        (lambda x: torch.tensor([1, 2], device=x.device), "copy to the device"),
        (lambda x: x.new_tensor(1.0), "copy to the device"),
        (lambda x: x[torch.tensor([1, 2])], "index of tensors on two devices"),
    ],
)
def test_a_wait_would_be_noticed(how: Any, noticed: str) -> None:
    with HostSyncs() as syncs:
        Waiting(how)(losses=elsewhere(torch.rand(ROWS)))
    assert syncs.operations == [noticed]
    assert "test_no_host_sync.py" in syncs.found[0]


@pytest.mark.parametrize(
    "how",
    [
        lambda x: torch.rand(3).sum().item(),  # on the CPU, looking is free
        lambda x: torch.rand(3).to(x.device, non_blocking=True),
        lambda x: torch.full((3,), 2.0, device=x.device),
        lambda x: x.clone().__setitem__(x > 1, 0.0),
        lambda x: torch.where(x > 1, x, 2.0) * torch.tensor(3.0),
        lambda x: x.to(torch.float64),
    ],
)
def test_no_wait_is_made_up(how: Any) -> None:
    with HostSyncs() as syncs:
        Waiting(how)(losses=elsewhere(torch.rand(ROWS)))
    assert syncs.found == []


def test_callers_can_be_told_apart() -> None:
    losses = elsewhere(torch.rand(ROWS))
    with HostSyncs(__file__) as here_alone, HostSyncs("/elsewhere") as nowhere:
        losses.sum().item()
    assert here_alone.found == nowhere.found == []  # the inner mode is the one that is asked
    with HostSyncs(__file__) as here_alone:
        losses.sum().item()
        LossPercentile(fixed_size=False)(losses=losses)
    assert here_alone.operations == ["_local_scalar_dense"]
