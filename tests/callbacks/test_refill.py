"""refill=True: chosen rows are collected into full training batches; batches in between make no step."""

import functools
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.optim import lr_scheduler

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.callbacks.refill_queue import RefillQueue
from litselect.selectors import (
    HideLearned,
    InfoBatch,
    KeepUnlearned,
    RandomSubset,
    Selection,
    Selector,
    ShuffledScores,
    TopLoss,
)
from tests.callbacks.kit import CLASSES, WIDTH, Classifier, Notes, loader, loader_of, rows


class Scheduled(Classifier):
    """With a schedule that moves at every step."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ByHand(Classifier):
    """Manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class ChosenRows:
    """Notes which rows are chosen, by running before ours is done with them."""

    def __init__(self, selector: Any) -> None:
        self.chosen: list[int] = []
        select = selector.select

        def noted(k: int, **scores: Any) -> Any:
            selection = select(k, **scores)
            self.newest = selection.indices
            return selection

        selector.select = noted

    def take(self, ids: torch.Tensor) -> None:
        self.chosen += ids[self.newest].tolist()


class Bookkeeper:
    """Puts the ids to the chosen positions, after each batch."""

    def __init__(self, rows: ChosenRows) -> None:
        super().__init__()
        self.rows, self.outputs, self.steps = rows, [], []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rows.take(batch[2])
        self.outputs.append(outputs)
        self.steps.append(trainer.global_step)


def third_of(n: int) -> list[int]:
    """Whether a step is made at each of `n` batches of 8, of which 3 rows are chosen: at 8, 16, 24, ... rows."""
    return [math.floor(3 * (i + 1) / 8) - math.floor(3 * i / 8) for i in range(n)]


@pytest.mark.parametrize("module", [Scheduled, ByHand])
def test_batches_in_between_are_true_skips(kit: Any, module: Any, tmp_path: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=3 / 8), refill=True)
    books = kit.callback(Bookkeeper, ChosenRows(callback.selector))
    files, logger = kit.checkpoint_io(), kit.logger()
    checkpoint = kit.pl.callbacks.ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1, save_weights_only=True
    )
    net = kit.make(module)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual")
        trainer = kit.fit(
            net,
            callback,
            books,
            checkpoint,
            data=loader(80, 8, shuffle=True),
            max_epochs=2,
            logger=logger,
            enable_checkpointing=True,
            plugins=[files],
        )
    made = third_of(20)  # of 20 incoming batches
    steps = sum(made)
    assert books.steps == [sum(made[: i + 1]) for i in range(20)]
    assert trainer.global_step == callback.counters.steps == steps == 7
    if module is Scheduled:
        assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == steps
    assert sorted(files.saved) == [str(tmp_path / f"step={step}.ckpt") for step in (2, 4, 6)]
    assert [step for step, row in logger.rows if "loss_step" in row] == list(range(steps))
    if module is Scheduled:
        assert [bool(output) for output in books.outputs] == [bool(step) for step in made]
    # every batch is full, and every chosen row is in one of them, in the order in which they were chosen
    assert [len(ids) for ids in net.steps] == [8] * steps
    trained = [i for ids in net.steps for i in ids]
    assert trained == books.rows.chosen[: len(trained)]
    assert len(books.rows.chosen) - len(trained) == len(callback.queue) == 60 - 56
    assert callback.counters.seen == callback.counters.scored == 160
    assert callback.counters.trained == 56


def test_without_scores_too(solo: Any) -> None:
    callback = ExampleSelection(RandomSubset(keep=0.5), refill=True)
    net = solo.make(Classifier)
    trainer = solo.fit(net, callback, data=loader(64, 8))
    assert trainer.global_step == 4
    assert [len(ids) for ids in net.steps] == [8] * 4
    assert callback.counters.scored == 0
    assert len({i for ids in net.steps for i in ids}) == 32


@pytest.mark.parametrize("module", [Classifier, ByHand])
def test_max_steps_counts_real_steps(kit: Any, module: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=0.25), refill=True)
    trainer = kit.fit(kit.make(module), callback, data=loader(32, 8), max_steps=3, max_epochs=-1)
    assert trainer.global_step == 3
    assert callback.counters.seen == 3 * 32


def test_a_short_last_batch_waits_for_the_next_epoch(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=1.0), refill=True)
    net = solo.make(Classifier)
    solo.fit(net, callback, data=loader(20, 8), max_epochs=2)
    assert [len(ids) for ids in net.steps] == [8] * 5
    assert [i for ids in net.steps for i in ids] == [*range(20), *range(20)]
    assert len(callback.queue) == 0


def test_independent_draws_make_full_batches(kit: Any) -> None:
    callback = SelectiveBackprop(keep=0.5, refill=True, warmup=0, seed=0)
    books = kit.callback(Bookkeeper, ChosenRows(callback.selector))
    net = kit.make(Classifier)
    kit.fit(net, callback, books, data=loader(160, 8), max_epochs=2)
    assert {len(ids) for ids in net.steps} == {8}
    trained = [i for ids in net.steps for i in ids]
    assert trained == books.rows.chosen[: len(trained)]
    assert len(callback.queue) < 8
    assert abs(len(books.rows.chosen) / 320 - 0.5) < 0.15


def test_validation_runs_after_a_skipped_last_batch(solo: Any) -> None:
    class Validates(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.note(batch[2])

    net = solo.make(Validates)
    callback = ExampleSelection(TopLoss(keep=0.5), refill=True)  # 3 batches: the third makes no step
    trainer = solo.trainer(callback, max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(net, loader(24, 8), loader(7, 7))
    assert net.passes.count(7) == 2
    assert trainer.global_step == 3


def test_warmup_trains_whole_batches_first(solo: Any) -> None:
    net = solo.make(Classifier)
    solo.fit(net, ExampleSelection(TopLoss(keep=0.5), refill=True, warmup=1), data=loader(32, 8), max_epochs=3)
    assert net.steps[:4] == [list(range(i, i + 8)) for i in range(0, 32, 8)]
    assert len(net.steps) == 4 + 2 + 2


# ---------------------------------------------------------------------- structures


@dataclass
class Sample:
    x: torch.Tensor
    y: torch.Tensor
    names: list[str]
    scale: float = 2.0


class OfStructure(Classifier):
    """Reads batches of any of the structures below."""

    def training_step(self, batch: Any) -> Any:
        x, y, names = read(batch)
        if torch.is_grad_enabled():
            self.steps.append((type(batch), list(names), y.tolist()))
        return F.cross_entropy(self.net(x), y)


def read(batch: Any) -> Any:
    if isinstance(batch, Sample):
        return batch.x, batch.y, batch.names
    if isinstance(batch, dict):
        return batch["in"]["x"], batch["y"], batch["names"]
    return batch


STRUCTURES = {
    "dict": lambda x, y, names: {"in": {"x": x}, "y": y, "names": names, "scale": 0.5, "kind": "train"},
    "dataclass": Sample,
    "tuple": lambda *parts: parts,
    "list": lambda *parts: list(parts),
}


@pytest.mark.parametrize("refill", [True, False])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_batches_of_any_structure(solo: Any, structure: str, refill: bool) -> None:
    x, y, ids = rows(48)
    parts = [(x[i : i + 8], y[i : i + 8], [f"row {j}" for j in ids[i : i + 8].tolist()]) for i in range(0, 48, 8)]
    batches = [STRUCTURES[structure](*part) for part in parts]
    net = solo.make(OfStructure)
    solo.fit(net, ExampleSelection(RandomSubset(keep=0.5, seed=0), refill=refill), data=loader_of(batches))
    size = 8 if refill else 4
    assert [len(names) for _, names, _ in net.steps] == [size] * (24 // size)
    for kind, names, targets in net.steps:
        assert kind is type(batches[0])
        assert [y[int(name.split()[1])] for name in names] == targets  # what belongs together stays together
    everything = [int(name.split()[1]) for _, names, _ in net.steps for name in names]
    assert everything == sorted(everything)
    assert len(set(everything)) == 24


def test_the_batch_of_the_loader_is_left_alone(solo: Any) -> None:
    x, y, _ = rows(16)
    batches = [{"in": {"x": x[i : i + 8]}, "y": y[i : i + 8], "names": list("abcdefgh")} for i in (0, 8)]
    solo.fit(solo.make(OfStructure), ExampleSelection(TopLoss(keep=0.5)), data=loader_of(batches))
    assert torch.equal(torch.cat([batch["in"]["x"] for batch in batches]), x)
    assert [batch["names"] for batch in batches] == [list("abcdefgh")] * 2


def test_constants_that_change_are_refused(solo: Any) -> None:
    x, y, _ = rows(16)
    batches = [{"in": {"x": x[:8]}, "y": y[:8], "names": ["a"] * 8, "scale": float(i)} for i in range(2)]
    with pytest.raises(
        ValueError, match=r"belongs to a batch as a whole must not change.*\[0\.0\].*\[1\.0\].*without refill"
    ):
        solo.fit(solo.make(OfStructure), ExampleSelection(TopLoss(keep=0.5), refill=True), data=loader_of(batches))
    net = solo.make(OfStructure)
    solo.fit(net, ExampleSelection(TopLoss(keep=0.5)), data=loader_of(batches))  # as the message says
    assert len(net.steps) == 2


class AnyLength(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.note(torch.tensor(x.shape))
        return F.cross_entropy(x.mean(1)[:, :CLASSES] * self.net.weight.sum(), y)


def test_row_shapes_may_change_while_none_waits(solo: Any) -> None:
    batches = [(torch.randn(4, length, WIDTH), torch.zeros(4, dtype=torch.int64)) for length in (3, 3, 6, 6)]
    net = solo.make(AnyLength)
    solo.fit(net, ExampleSelection(TopLoss(keep=0.5), refill=True), data=loader_of(batches))
    assert net.steps == [[4, 3, WIDTH], [4, 6, WIDTH]]


def test_row_shapes_that_change_are_refused(solo: Any) -> None:
    batches = [(torch.randn(4, length, WIDTH), torch.zeros(4, dtype=torch.int64)) for length in (3, 6)]
    with pytest.raises(ValueError, match=r"one shape, but got \(2, 3, 5\), \(2, 6, 5\).*Pad.*without refill"):
        solo.fit(solo.make(AnyLength), ExampleSelection(TopLoss(keep=0.5), refill=True), data=loader_of(batches))


def test_columns_that_change_are_refused(solo: Any) -> None:
    x, y, ids = rows(8)
    batches = [(x, y, ids.tolist()), (x, y, ids.tolist(), ids)]

    class First(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    with pytest.raises(ValueError, match=r"a batch of 3 columns .* was followed by one of 4"):
        solo.fit(solo.make(First), ExampleSelection(TopLoss(keep=0.5), refill=True), data=loader_of(batches))


# ---------------------------------------------------------------------- schedules and accumulation


def test_accumulation_is_refused_with_both_remedies(kit: Any) -> None:
    net = kit.make(Classifier)
    callback = SelectiveBackprop(keep=0.5, refill=True)
    with pytest.raises(ValueError, match=r"remove `accumulate_grad_batches`.*or use SelectiveBackprop\(refill=False\)"):
        kit.fit(net, callback, accumulate_grad_batches=2)
    assert net.steps == []
    kit.fit(net, SelectiveBackprop(keep=0.5), accumulate_grad_batches=2)


def halve(total: int, step: int) -> float:
    """A schedule as a function of its length."""
    return 1 - step / (2 * total)


class Decay:
    """A schedule as an object."""

    def __init__(self, total: int) -> None:
        self.total = total

    def __call__(self, step: int) -> float:
        return halve(self.total, step)


LONG = {
    "OneCycleLR": lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, total_steps=n),
    "CosineAnnealingLR": lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
    "LinearLR": lambda o, n: lr_scheduler.LinearLR(o, total_iters=n),
    "LambdaLR": lambda o, n: lr_scheduler.LambdaLR(o, lambda step: halve(n, step)),
    "LambdaLR of a partial": lambda o, n: lr_scheduler.LambdaLR(o, functools.partial(halve, n)),
    "LambdaLR with a default": lambda o, n: lr_scheduler.LambdaLR(o, lambda step, total=n: halve(total, step)),
    "LambdaLR of an object": lambda o, n: lr_scheduler.LambdaLR(o, Decay(n)),
    "SequentialLR": lambda o, n: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.CosineAnnealingLR(o, n)], [2]
    ),
}
FINE = {
    "StepLR": lambda o, n: lr_scheduler.StepLR(o, 3),
    "shorter": lambda o, n: lr_scheduler.CosineAnnealingLR(o, n // 2),
    "LambdaLR": lambda o, n: lr_scheduler.LambdaLR(o, lambda step: 0.99**step),
    "ConstantLR": lambda o, n: lr_scheduler.ConstantLR(o, total_iters=2),
}


class WithSchedule(Classifier):
    def __init__(self, make: Any, interval: str = "step") -> None:
        super().__init__()
        self.make, self.interval = make, interval

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        planned = int(self.trainer.estimated_stepping_batches)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule = self.make(optimizer, planned)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}


def fit_scheduled(
    kit: Any, make: Any, keep: float = 0.5, interval: str = "step", selector: Selector | None = None, **settings: Any
) -> None:
    callback = ExampleSelection(selector or TopLoss(keep=keep), refill=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The epoch parameter in .scheduler.step", UserWarning)
        kit.fit(kit.make(WithSchedule, make, interval), callback, max_epochs=2, **settings)


@pytest.mark.parametrize("name", LONG)
def test_a_schedule_of_all_batches_is_warned_of(solo: Any, name: str) -> None:
    with pytest.warns(UserWarning, match=rf"{name.split()[0]} is sized for 8 steps.*about 0\.5 times.*for 4 steps"):
        fit_scheduled(solo, LONG[name])


@pytest.mark.parametrize("selector", [InfoBatch(), HideLearned(), KeepUnlearned(), ShuffledScores(KeepUnlearned())])
def test_where_the_selector_decides_how_many_no_number_is_named(solo: Any, selector: Selector) -> None:
    with pytest.warns(UserWarning, match="for 8 steps.*makes fewer, as .* decides.*Let a BudgetSchedule follow"):
        fit_scheduled(solo, LONG["OneCycleLR"], selector=selector)


@pytest.mark.parametrize("name", FINE)
def test_no_false_alarm(solo: Any, name: str) -> None:
    fit_scheduled(solo, FINE[name])


def test_no_alarm_where_the_length_is_right(solo: Any) -> None:
    fit_scheduled(solo, LONG["CosineAnnealingLR"], keep=1.0)
    fit_scheduled(solo, LONG["CosineAnnealingLR"], max_steps=4)
    fit_scheduled(solo, lambda o, n: lr_scheduler.CosineAnnealingLR(o, 8), interval="epoch")


# ---------------------------------------------------------------------- weights


class FirstHalf(Selector):
    """The first k rows; the weight of a row says where in its batch it was."""

    def select(self, k: int, *, losses: torch.Tensor) -> Selection:
        return Selection(torch.arange(k), torch.arange(1.0, k + 1))


def test_weights_wait_with_their_rows(solo: Any) -> None:
    class Weighed(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, _ = batch
            logits = self.net(x)
            loss = F.cross_entropy(logits, y)
            if torch.is_grad_enabled():
                (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
                plain = (logits.softmax(1) - F.one_hot(y, CLASSES)) / len(y)
                self.weights.append((found / plain).detach().mean(1))
            return loss

    net = solo.make(Weighed)
    net.weights = Notes()
    solo.fit(net, ExampleSelection(FirstHalf(keep=0.5)), data=loader(8, 8))
    solo.fit(net, ExampleSelection(FirstHalf(keep=0.5), refill=True), data=loader(32, 8))
    assert [len(found) for found in net.weights] == [4, 8, 8]
    for found in net.weights:
        torch.testing.assert_close(found, torch.tensor([1.0, 2, 3, 4] * (len(found) // 4)), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- rows that wait, in a checkpoint

KINDS: dict[str, Any] = {
    "big-endian": np.arange(4).astype(">f4"),
    "days": np.array(["2020-01-01", "2021-02-03"] * 2, "M8[D]"),
    "spans": np.arange(4).astype("m8[s]"),
    "words": [["a", b"b"], (1, None)] * 2,
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_all_kinds_come_back(kind: str, tmp_path: Path) -> None:
    batch, queue, again = {"x": torch.arange(4.0), "column": KINDS[kind]}, RefillQueue(), RefillQueue()
    queue.push(batch, 4, torch.arange(4))
    torch.save(queue.state_dict(), tmp_path / "queue.pt")
    again.load_state_dict(torch.load(tmp_path / "queue.pt", weights_only=True))
    found = again.pop(4, batch, 4)["column"]
    assert type(found) is type(KINDS[kind])
    assert [*found] == [*KINDS[kind]]


def test_objects_are_left_out_of_a_checkpoint_that_can_be_loaded(tmp_path: Path) -> None:
    batch = {"x": torch.arange(4.0), "files": [Path("a"), [Path("b")], "c", np.float64(1)]}
    queue, again = RefillQueue(), RefillQueue()
    queue.push(batch, 4, torch.arange(3))
    with pytest.warns(UserWarning, match=r"3 rows wait .* can hold entries of PosixPath: .*goes on without"):
        torch.save(queue.state_dict(), tmp_path / "queue.pt")
    again.load_state_dict(torch.load(tmp_path / "queue.pt", weights_only=True))
    assert (len(again), again.dropped, len(queue)) == (0, 3, 3)
