"""Steps that change their batch, which Lightning lets them: what they are scored on is not what they are trained on."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.scoring import CaptureError, ScoringPass
from litselect.scoring.batch_lender import BatchLender
from litselect.selectors import TopLoss
from tests.callbacks.kit import WIDTH, Classifier, loader


def as_dict(rows: list[Any]) -> dict[str, Tensor]:
    return dict(zip(("x", "y", "id"), default_collate(rows), strict=True))


class Popping(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        labels = batch.pop("y")
        return F.cross_entropy(self.net(batch["x"]), labels)


class Writing(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch["x"].mul_(2).add_(1)), batch["y"])


class Rebinding(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch["x"] = batch["x"] * 2 + 1
        return F.cross_entropy(self.net(batch["x"]), batch["y"])


class Keeping(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(WIDTH, WIDTH)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if "features" not in batch:
            batch["features"] = self.encoder(batch["x"])
        return F.cross_entropy(self.net(batch["features"]), batch["y"])


class ByHand(Popping):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


STEPS = [Popping, Writing, Rebinding, Keeping, ByHand]
CALLBACKS = {
    "pass": lambda: ExampleSelection(TopLoss(1.0)),
    "chunks": lambda: ExampleSelection(TopLoss(1.0), scoring=ScoringPass(chunk=3)),
    "ledger": lambda: SelectiveBackprop(1.0),
    "auto": lambda: SelectiveBackprop(1.0, scoring="auto"),
}


def weights(kit: Any, step: type, callback: Any = None) -> dict[str, Tensor]:
    net = kit.make(step)
    kit.fit(net, *([callback] if callback else []), data=loader(collate_fn=as_dict), max_epochs=2)
    return net.state_dict()


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("step", STEPS)
def test_what_is_trained_is_what_the_loader_brought(solo: Any, step: type, name: str) -> None:
    plain, scored = weights(solo, step), weights(solo, step, CALLBACKS[name]())
    assert all(torch.equal(plain[key], scored[key]) for key in plain)


@pytest.mark.parametrize("step", STEPS)
def test_without_the_lender_it_is_not(solo: Any, step: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchLender, "lent", lambda self, batch, n: nullcontext(batch))
    plain = weights(solo, step)
    try:
        scored = weights(solo, step, ExampleSelection(TopLoss(1.0)))
    except (KeyError, CaptureError):  # what was popped is gone; what was written twice looks like another row's doing
        return
    assert not all(torch.equal(plain[key], scored[key]) for key in plain)


def test_a_step_that_begins_to_write_is_refused(solo: Any) -> None:
    class Late(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x = batch["x"].add_(1) if batch_idx else batch["x"]
            return F.cross_entropy(self.net(x), batch["y"])

    with pytest.raises(RuntimeError, match=r"wrote to a tensor of its batch in place.*x = x\.clone"):
        weights(solo, Late, ExampleSelection(TopLoss(0.5)))


@pytest.mark.parametrize("step", [Popping, Rebinding, Keeping])
def test_a_forward_that_changes_its_containers_is_reused(solo: Any, step: type) -> None:
    callbacks = [ExampleSelection(TopLoss(0.5), reuse_forward=reuse) for reuse in (True, False)]
    reused, scored = (weights(solo, step, callback) for callback in callbacks)
    assert callbacks[0].counters.reused > 0
    for key in reused:
        torch.testing.assert_close(reused[key], scored[key])


def test_a_forward_that_writes_to_its_batch_is_not_reused(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(0.5), reuse_forward=True)
    with pytest.warns(UserWarning, match="writes to its batch in place"):
        reused = weights(solo, Writing, callback)
    scored = weights(solo, Writing, ExampleSelection(TopLoss(0.5)))
    assert callback.counters.reused == 0
    assert all(torch.equal(reused[key], scored[key]) for key in reused)


def test_tensors_are_copied_only_for_steps_that_write() -> None:
    lender, batch = BatchLender(), [torch.zeros(4, 2), torch.arange(4), ["a", "b", "c", "d"]]
    seen = []
    for _ in range(2):
        with lender.lent(batch, 4) as own:
            seen.append(own)
            own.append("more")
    assert len(batch) == 3
    assert seen[0][0] is not batch[0]
    assert seen[1][0] is batch[0]
    assert seen[1][2] is not batch[2]
    lender = BatchLender()
    for _ in range(2):
        with lender.lent(batch, 4) as own:
            own[0].add_(1)
    assert batch[0].sum() == 0
