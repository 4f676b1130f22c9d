"""Steps whose loss is a cross-entropy and nothing else are read, others are listened to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from litselect.callbacks import ExampleSelection, SelectiveBackprop, selected_step
from litselect.callbacks.example_memory import ExampleMemory
from litselect.selectors import InfoBatch
from tests.callbacks.kit import Classifier, Notes, differences, loader

N, BATCH = 32, 8


@pytest.fixture
def listened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes the rows of every step that is listened to."""
    found: list[int] = []

    class Noting(selected_step.LossObserver):
        def __init__(self, n: int, **settings: Any) -> None:
            found.append(n)
            super().__init__(n, **settings)

    monkeypatch.setattr(selected_step, "LossObserver", Noting)
    return found


def ledger(**settings: Any) -> SelectiveBackprop:
    return SelectiveBackprop(0.5, scoring="ledger", seed=0, **settings)


def fitted(kit: Any, mixin: type, callback: Any = None, **settings: Any) -> Any:
    callback = callback or ledger()
    kit.fit(kit.make(mixin), callback, data=loader(N, batch_size=BATCH), max_epochs=3, **settings)
    return callback


def test_after_the_first_batch_nobody_listens(solo: Any, listened: list[int]) -> None:
    callback = fitted(solo, Classifier)
    assert listened == [BATCH]
    assert callback.memory.loss == "plain"
    assert not callback.ledger.loss.isnan().any()


def test_what_is_read_is_what_would_be_heard(solo: Any, listened: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    read = fitted(solo, Classifier)
    monkeypatch.setattr(
        ExampleMemory, "loss", property(lambda memory: "any", lambda memory, value: None), raising=False
    )
    heard = fitted(solo, Classifier)
    assert len(listened) == 1 + 3 * N // BATCH
    assert differences(read.ledger.loss, heard.ledger.loss) == []
    assert differences(read.ledger.learned, heard.ledger.learned) == []
    assert differences(read.selector.state_dict(), heard.selector.state_dict()) == []


class Penalised(Classifier):
    """Adds a penalty from the fifth step on."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss + 0.1 * self.net.weight.square().sum() if len(self.steps) > 4 else loss


def test_a_loss_that_changes_is_listened_to_again(solo: Any, listened: list[int]) -> None:
    """Of the batch in which it changes nothing is known; of no other."""
    recorded: list[int] = []
    trained = ExampleMemory.trained

    def noting(memory: Any, ids: Any, scores: Any, *rest: Any) -> None:
        recorded.append(scores is not None)
        trained(memory, ids, scores, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExampleMemory, "trained", noting)
        callback = fitted(solo, Penalised)
    assert recorded == [True] * 4 + [False] + [True] * 7
    assert callback.memory.loss == "any"
    assert listened == [8] + 7 * [4]


class Smoothed(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        return F.cross_entropy(self.net(x), y, label_smoothing=0.1)


class AsDict(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx)}


class Manual(Classifier):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y, ids = batch
        self.note(ids)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(x), y))
        optimizer.step()


class Declining(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if len(self.steps) == 3 else loss


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
@pytest.mark.parametrize(
    ("mixin", "steps"),
    [(Smoothed, 12), (Manual, 12), (AsDict, 1), (Declining, 1)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_who_is_listened_to(solo: Any, listened: list[int], mixin: type, steps: int) -> None:
    callback = fitted(solo, mixin)
    assert len(listened) == steps
    assert not callback.ledger.loss.isnan().any() or mixin is Declining


class Checkpointed(Classifier):
    """Computes what backward needs anew: whoever looks at it has it computed once more."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = Notes()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return checkpoint(self._loss, *batch, use_reentrant=False)

    def _loss(self, x: Any, y: Any, ids: Any) -> Any:
        self.forwards.append(len(ids))
        return F.cross_entropy(self.net(x), y)


def test_what_is_computed_anew_is_not_looked_at(solo: Any, listened: list[int]) -> None:
    plain, net = solo.make(Checkpointed), solo.make(Checkpointed)
    solo.fit(plain, data=loader(N, batch_size=BATCH), max_epochs=3)
    solo.fit(net, SelectiveBackprop(1.0, scoring="ledger"), data=loader(N, batch_size=BATCH), max_epochs=3)
    assert len(listened) == 12
    scored = len(net.forwards) - len(plain.forwards)
    assert 0 < scored < 6, "of the first batch, to check the capture"


def test_weighed_losses_are_listened_to(solo: Any, listened: list[int]) -> None:
    fitted(solo, Classifier, ExampleSelection(InfoBatch(0.5, seed=0)))
    assert len(listened) > 1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_training_goes_on_reading(solo: Any, listened: list[int], tmp_path: Path) -> None:
    """Or its first batch would be heard where the uninterrupted training read it."""
    net, trainer = solo.make(Classifier), solo.trainer(ledger(), max_epochs=2)
    trainer.fit(net, loader(N, batch_size=BATCH))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    listened.clear()
    callback = ledger()
    solo.trainer(callback, max_epochs=3).fit(
        solo.make(Classifier), loader(N, batch_size=BATCH), ckpt_path=tmp_path / "two.ckpt"
    )
    assert callback.counters.seen == 3 * N
    assert listened == []


def test_gradients_are_those_of_the_plain_training(solo: Any) -> None:
    """At keep = 1 all rows are trained, and read."""
    plain, read = solo.make(Classifier), solo.make(Classifier)
    solo.fit(plain, data=loader(N, batch_size=BATCH), max_epochs=2)
    solo.fit(read, SelectiveBackprop(1.0, scoring="ledger"), data=loader(N, batch_size=BATCH), max_epochs=2)
    assert torch.equal(plain.net.weight, read.net.weight)
