"""A step that moves parameters itself moves them as often as it would without selection."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from litselect.callbacks import Budget, ExampleSelection, SelectiveBackprop
from litselect.scoring import ScoringPass, moved_parameters
from litselect.scoring.moved_parameters import MovedParameters
from litselect.scoring.no_trace import NoTrace, TraceMemory
from litselect.scoring.tensor_copies import TensorCopies
from litselect.selectors import TopLoss
from tests.callbacks.kit import CLASSES, WIDTH, Classifier, differences, loader, weights

HOW = ["in place", "data", "another data"]  # as published codes do


def move(parameter: Any, to: torch.Tensor, how: str) -> None:
    if how == "in place":
        with torch.no_grad():
            parameter.copy_(to)
    elif how == "data":
        parameter.data.copy_(to)
    else:
        parameter.data = to.detach()


class Taught(Classifier):
    """Learns from a mean teacher, which its own step moves."""

    def __init__(self, how: str = "in place", begins: int = 0, alike: bool = False) -> None:
        super().__init__()
        self.teacher = nn.Linear(WIDTH, CLASSES).requires_grad_(False)
        if alike:
            self.teacher.load_state_dict(self.net.state_dict())
        self.how, self.begins = how, begins

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        if self.trainer.global_step >= self.begins:
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                move(slow, slow.lerp(fast.detach(), 0.1), self.how)
        outputs = self.net(x)
        return F.cross_entropy(outputs, y) + F.mse_loss(outputs, self.teacher(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [ExampleSelection(TopLoss(keep=1.0))],
        lambda: [SelectiveBackprop(keep=1.0)],
        lambda: [SelectiveBackprop(keep=1.0, scoring="ledger")],
        lambda: [Budget(flops=1e12)],
    ],
)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.filterwarnings("ignore:Training ended with")
def test_training_is_what_it_would_be(solo: Any, make: Any, how: str, alike: bool) -> None:
    """Also of a teacher that begins as what it is moved to, so that the first pass does not move it."""
    trained = []
    for callbacks in ([], make()):
        module = solo.make(Taught, how, alike=alike)
        solo.fit(module, *callbacks, data=loader(), max_epochs=2)
        trained.append(weights(module))
    assert not differences(*trained)


@pytest.mark.filterwarnings("ignore:.*reuse_forward:UserWarning", "ignore:.*forward is not re-used:UserWarning")
def test_a_forward_that_moves_them_is_not_used_again(solo: Any) -> None:
    trained = []
    for settings in ({}, {"reuse_forward": True}):
        module = solo.make(Taught)
        callback = ExampleSelection(TopLoss(keep=0.5), scoring=ScoringPass(check=False), **settings)
        solo.fit(module, callback, data=loader(), max_epochs=2)
        trained.append(weights(module))
    assert "changes parameters" in callback.reuse_refused
    assert not differences(*trained)


def test_a_step_that_begins_late_moves_them_once_more_and_says_so(solo: Any) -> None:
    module = solo.make(Taught, begins=3)
    with pytest.warns(UserWarning, match=r"began to move 2 of its parameters in it \(teacher.weight, ") as w:
        solo.fit(module, ExampleSelection(TopLoss(keep=1.0)), data=loader(), max_epochs=3)
    assert sum("began to move" in str(one.message) for one in w) == 1


class Net(nn.Module):
    def __init__(self, how: str = "in place", size: int = 4) -> None:
        super().__init__()
        self.trained, self.frozen = nn.Linear(size, 4), nn.Linear(size, 4).requires_grad_(False)
        self.moves = nn.Linear(size, 4).requires_grad_(False)
        self.how = how

    def forward(self) -> None:
        move(self.moves.weight, self.moves.weight + 1, self.how)


@pytest.mark.parametrize("how", HOW)
def test_large_ones_are_put_back_too(how: str) -> None:
    """Of which those that no version tells of are written only where they were seen to move."""
    net, memory = Net(how, size=2**15), TraceMemory()
    before = weights(net)
    for _ in range(3):
        with NoTrace(net, memory=memory):
            net()
        assert not differences(before, weights(net))


@pytest.mark.parametrize("how", HOW)
def test_after_the_first_step_only_what_moves_is_copied(how: str) -> None:
    net, memory = Net(how), TraceMemory()
    for place, expected in enumerate((4, 4, 4, 1, 1)):  # of two layers, frozen; then of what moved
        if place == 2:
            torch.nn.init.ones_(net.trained.weight)  # a step
        before = weights(net)
        with NoTrace(net, memory=memory):
            assert len(memory.copies._copies) == expected
            net()
        assert not differences(before, weights(net))


def test_it_does_not_compare_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the optimizer writes through ``.data``, no version tells of a step."""
    monkeypatch.setattr(moved_parameters, "_MOST", 3)
    net, memory = Net(), TraceMemory()
    copies = []
    for _ in range(5):
        with NoTrace(net, memory=memory):
            copies.append(len(memory.copies._copies))
    assert copies == [4, 4, 4, 0, 0]


def test_where_there_is_no_memory_for_copies_it_is_found_out_without(monkeypatch: pytest.MonkeyPatch) -> None:
    save = TensorCopies.save

    def small(self: TensorCopies, tensors: list[torch.Tensor]) -> None:
        if len(tensors) > 1:
            raise torch.OutOfMemoryError("full")
        save(self, tensors)

    monkeypatch.setattr(TensorCopies, "save", small)
    net, memory = Net(), TraceMemory(moved=MovedParameters())
    with pytest.warns(UserWarning, match=r"1 of its parameters in it \(moves.weight\)"), NoTrace(net, memory=memory):
        net()
    before = weights(net)
    with NoTrace(net, memory=memory):
        net()
    assert not differences(before, weights(net))
