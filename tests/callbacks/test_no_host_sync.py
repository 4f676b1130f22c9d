"""A selected step of a Trainer makes the host wait for nothing, apart from what the user's own code waits for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from litselect.callbacks import ExampleSelection, SelectiveBackprop, new_entries
from litselect.callbacks.example_memory import ExampleMemory
from litselect.callbacks.finite_guard import FiniteGuard
from litselect.callbacks.score_plan import ScorePlan
from litselect.callbacks.selection_session import SelectionSession
from litselect.callbacks.tapped_sampler import Delivery
from litselect.scoring import Ledger, Scores
from litselect.selectors import LossPercentile, Selection, Selector, TopLoss, fixed_size, loss_percentile
from tests.callbacks.kit import Classifier, loader
from tests.host_syncs import DEVICE, LITSELECT, Elsewhere, HostSyncs, elsewhere, here
from tests.selectors.specimens import WeightedDraw

WARM = 3  # batches in which rings and tables are made and the capture is checked
BATCHES = 12

SELECTIONS: dict[str, Callable[[], ExampleSelection]] = {
    "top losses": lambda: ExampleSelection(TopLoss(0.5)),
    "Selective-Backprop": lambda: SelectiveBackprop(keep=0.5, history=20, warmup=0),
    "refill": lambda: ExampleSelection(TopLoss(0.5), refill=True),
    "with weights": lambda: ExampleSelection(WeightedDraw(0.5)),
    "ledger": lambda: SelectiveBackprop(keep=0.5, scoring="ledger"),
    "ledger, all rows loaded": lambda: SelectiveBackprop(keep=0.5, scoring="ledger", floor=0.1, skip_loading=False),
    "ledger beside scores": lambda: SelectiveBackprop(keep=0.5, rescore_every=2, warmup=0, skip_loading=False),
}


class Unseen(Classifier):
    """Does not look at its batches, nor log."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, _ = batch
        return F.cross_entropy(self.net(x), y)


def fit(kit: Any, callback: ExampleSelection, *others: Any, accelerator: str = "cpu", mixin: type = Unseen) -> Any:
    """Two epochs, of which the ledger's first trains all rows."""
    trainer = kit.pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=2,
        callbacks=[callback, *others],
        logger=False,
        log_every_n_steps=10**6,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(kit.make(mixin), loader(16 * BATCHES // 2, 16))
    return trainer


# ---------------------------------------------------------------------- without a device


class Watch:
    """Notes the waits of every batch but the first ones, from hook to hook."""

    def __init__(self, *callers: Any) -> None:
        super().__init__()
        self.syncs = HostSyncs(LITSELECT, *callers, anywhere=True)
        self.batches = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.batches += 1
        if self.batches > WARM:
            self.syncs.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        if self.batches > WARM:
            self.syncs.__exit__(None, None, None)

    on_exception = on_train_batch_end


@pytest.fixture
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks at values on the CPU alone, where looking is free, does not look."""
    for module in (fixed_size, loss_percentile):
        monkeypatch.setattr(module, "known_empty", lambda mask: False)
    monkeypatch.setattr(FiniteGuard, "look", lambda self, values, what: None)
    monkeypatch.setattr(Selector, "_refuse_broken", lambda self, name, scores: None)


def watched(kit: Any, callback: ExampleSelection, *callers: Any, mixin: type = Unseen) -> list[str]:
    watch = kit.callback(Watch, *callers)
    fit(kit, callback, watch, mixin=mixin)
    assert watch.batches == BATCHES
    assert 0 < callback.counters.trained < callback.counters.seen
    return watch.syncs.operations


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selected_step_waits_for_nothing(solo: Any, name: str) -> None:
    assert watched(solo, SELECTIONS[name]()) == []


class Looking(TopLoss):
    def select(self, k: int, *, losses: Tensor) -> Selection:
        losses.mean().item()
        return super().select(k, losses=losses)


def looking(ledger: Ledger, ids: Tensor) -> None:
    ledger.seen[ids].max().item()


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_a_selector_or_a_ledger_that_waits_would_be_noticed(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    once_a_batch = ["_local_scalar_dense"] * (BATCHES - WARM)
    assert watched(solo, ExampleSelection(Looking(0.5)), __file__) == once_a_batch
    monkeypatch.setattr(Ledger, "see", looking)
    monkeypatch.setattr(new_entries, "_BATCHES", 1)  # that wait
    assert watched(solo, SELECTIONS["ledger"](), __file__) == once_a_batch


def test_the_guards_look_on_the_cpu_alone(solo: Any) -> None:
    """Which is why they are left out above."""
    assert set(watched(solo, ExampleSelection(TopLoss(0.5)))) == {"_local_scalar_dense"}


class Inquisitive(Unseen):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        loss.item()
        return loss


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize("name", ["top losses", "ledger"])
def test_waits_of_the_users_own_are_not_ours(solo: Any, name: str) -> None:
    assert watched(solo, SELECTIONS[name](), mixin=Inquisitive) == []


# ---------------------------------------------------------------------- the memory of a run, on a device


def remembering(ids: Tensor, *, early: bool = False) -> ExampleMemory:
    """A memory at the beginning of an epoch, with labels that a data set or a checkpoint left on the CPU."""
    memory = ExampleMemory(ScorePlan(True, 1, 0, False), None, (lambda *_: None) if early else None)
    memory._meet(loader(32), False)
    memory.labels = torch.arange(32, dtype=torch.int32) % 3
    memory._tap.delivery = lambda *_: Delivery(ids, (0, 31))
    memory.begin_epoch(0, 0, True, 0.5, DEVICE)
    return memory


def heard(n: int) -> Scores:
    return Scores(*(elsewhere(part) for part in (torch.rand(n), torch.randn(n, 3), torch.randint(3, (n,)))))


def test_a_batch_passes_the_memory_without_waiting() -> None:
    rows, ids = torch.tensor([0, 2]), torch.tensor([3, 9, 30, 0])
    known, classes = {}, []
    with HostSyncs() as syncs:
        memory = remembering(ids)
        for step in range(3):
            syncs.found.clear()
            arrived, _ = memory.arrive(None, None, step, 4)  # type: ignore[arg-type]
            assert isinstance(arrived, Elsewhere)
            memory.see(arrived)
            classes = here(memory.labels)[ids].tolist()
            known = memory.recall(arrived)
            memory.refreshed(arrived, None, heard(4), step, frozenset({"percentiles"}))
            memory.refreshed(arrived, elsewhere(rows), heard(2), step, frozenset())
            memory.trained(arrived[:2], heard(2), step, memory.sent)
    assert syncs.found == []
    assert here(known["targets"]).tolist() == classes
    assert all(isinstance(value, Elsewhere) for name, value in known.items() if name != "mean_loss")


def test_choices_ahead_of_loading_read_what_lies_on_the_cpu() -> None:
    ids, known = torch.tensor([3, 9, 30, 0]), {}
    with HostSyncs() as syncs:
        memory = remembering(ids, early=True)
        for step in range(3):
            syncs.found.clear()
            known = memory.recall(ids)
            arrived, _ = memory.arrive(None, None, step, 4)  # type: ignore[arg-type]
            memory.trained(arrived, heard(4), step, memory.sent)
        trained = memory.ledger.trained  # which has all of it entered
    assert syncs.found == []
    assert here(trained).sum() == 12
    assert known["targets"].tolist() == [0, 0, 0, 0], "as the epoch found them"


def test_what_the_memory_waits_for() -> None:
    """How many rows are scored again; and ids that the batch holds, which may be wrong or beyond the ledger."""
    ids = torch.tensor([3, 9, 30, 0])
    with HostSyncs() as syncs:
        memory = remembering(ids)
        syncs.found.clear()
        memory.outdated(elsewhere(ids))
        assert syncs.operations == ["nonzero"], syncs.found
        memory._find = lambda batch: batch
        syncs.found.clear()
        memory.arrive(None, elsewhere(ids), 0, 4)  # type: ignore[arg-type]
    assert syncs.operations == ["_local_scalar_dense", "_local_scalar_dense"]


# ---------------------------------------------------------------------- on a device


@contextmanager
def forbidden() -> Iterator[None]:
    """CUDA raises where the host would wait."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def strictly(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    """All that a session does in a batch, the user's step included, must not wait; the first batches may."""

    def strict(name: str) -> Callable[..., Any]:
        method = getattr(SelectionSession, name)

        def call(session: SelectionSession, *args: Any) -> Any:
            calls.append(name)
            if calls.count(name) <= WARM:
                return method(session, *args)
            with forbidden():
                return method(session, *args)

        return call

    for name in ("_choose", "_train", "batch_done"):
        monkeypatch.setattr(SelectionSession, name, strict(name))


@pytest.mark.gpu
@pytest.mark.parametrize("name", SELECTIONS)
def test_cuda_never_waits_in_a_selected_step(solo: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls: list[str] = []
    strictly(monkeypatch, calls)
    callback = SELECTIONS[name]()
    fit(solo, callback, accelerator="cuda")
    assert all(calls.count(name) > WARM for name in ("_choose", "_train", "batch_done"))
    assert 0 < callback.counters.trained < callback.counters.seen


@pytest.mark.gpu
def test_cuda_would_notice_a_wait(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    strictly(monkeypatch, [])
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        fit(solo, ExampleSelection(Looking(0.5)), accelerator="cuda")
    monkeypatch.setattr(Ledger, "see", looking)
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        fit(solo, SELECTIONS["ledger"](), accelerator="cuda")


@pytest.mark.gpu
def test_cuda_never_waits_in_a_selector() -> None:
    for selector in (TopLoss(0.5), LossPercentile(0.5, history=20)):
        for call in range(3):
            losses = torch.rand(16, device="cuda")
            if call:
                with forbidden():
                    selector(losses=losses)
            else:
                selector(losses=losses)
