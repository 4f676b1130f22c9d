"""How far training is, to those who choose rows before they are loaded: whatever makes steps, and however far ahead."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.scoring import ScoringPass
from litselect.selectors import HideLearned, InfoBatch, LossPercentile, RandomSubset, Scheduled, Stratified
from tests.callbacks.kit import CLASSES, WIDTH, Classifier, differences, loader, loader_of

N, BATCH = 40, 8
pytestmark = pytest.mark.filterwarnings(
    "ignore:The '\\w+_dataloader' does not have many workers", "ignore:.*max_epochs. was not set"
)


class TwoOptimizers(Classifier):
    """Under manual optimization each counts its own steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Linear(WIDTH, CLASSES)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.net, self.other)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        for optimizer, net in zip(self.optimizers(), (self.net, self.other), strict=True):
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(net(x), y))
            optimizer.step()


def by_epoch(net: Any) -> list[int]:
    """Rows that were trained in each epoch."""
    of_batches = [len(ids) for ids in net.steps]
    return [sum(of_batches[at : at + N // BATCH]) for at in range(0, len(of_batches), N // BATCH)]


LENGTHS = {
    "a step a batch": (Classifier, {"max_steps": 50}),
    "two optimizers": (TwoOptimizers, {"max_steps": 100}),
    "accumulated": (Classifier, {"max_steps": 20, "accumulate_grad_batches": 4}),  # five batches, two steps
}


@pytest.mark.parametrize("name", LENGTHS)
def test_progress_goes_by_the_steps_of_an_epoch(solo: Any, name: str) -> None:
    module, settings = LENGTHS[name]

    def fitted(callback: Any) -> list[int]:
        net = solo.make(module)
        solo.fit(net, callback, data=loader(N, BATCH, shuffle=True), max_epochs=-1, **settings)
        return by_epoch(net)

    assert fitted(SelectiveBackprop(0.5, end=0.5)) == [N // 2] * 5 + [N] * 5
    shrinking = fitted(ExampleSelection(Scheduled(RandomSubset(1.0), keep=(1.0, 0.2)), skip_loading=True))
    assert shrinking == sorted(shrinking, reverse=True)
    assert (shrinking[0], shrinking[-1]) == (39, 10)
    assert fitted(ExampleSelection(InfoBatch(seed=0)))[-1] == N  # which ends with all rows


def test_an_epoch_of_two_optimizers_steps_is_one_epoch(solo: Any) -> None:
    """After which nothing remembered could be used: it is scored by passes."""
    net, callback = solo.make(TwoOptimizers), SelectiveBackprop(0.5)
    solo.fit(net, callback, data=loader(N, BATCH), max_epochs=-1, max_steps=2 * N // BATCH)
    assert callback.memory is None
    assert by_epoch(net)[0] < N


class EveryOther(Classifier):
    """Makes a step of two batches by hand, of which the Trainer knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


class Unlengthed(BatchSampler):
    def __len__(self) -> int:
        raise TypeError("of a stream")


PACES = {  # how many batches are selected from, until 10 of 20 steps are made
    "refilled": (Classifier, {"refill": True}, BatchSampler, 20),
    "without a length": (Classifier, {}, Unlengthed, 10),  # which are not counted anew in each epoch
    "steps by hand": (EveryOther, {}, BatchSampler, 25),
}


@pytest.mark.parametrize("name", PACES)
def test_progress_goes_by_the_steps_that_are_made(solo: Any, name: str) -> None:
    """Be they other than plain training's: by the step at which the epoch began, and the pace of the one before."""
    module, settings, sampler, batches = PACES[name]
    callback = ExampleSelection(RandomSubset(0.5), end=0.5, skip_loading=True, **settings)
    plain = loader(N, BATCH)
    lists = sampler(SequentialSampler(plain.dataset), BATCH, drop_last=False)
    data = DataLoader(plain.dataset, batch_sampler=lists, collate_fn=plain.collate_fn)
    trainer = solo.fit(solo.make(module), callback, data=data, max_epochs=-1, max_steps=20)
    assert trainer.global_step == 20
    assert callback.counters.seen - callback.counters.trained == batches * BATCH // 2


class Placed(DataLoader):
    """Goes on within an epoch, as torchdata's loader does: it sets the iterator of its batch sampler to a place."""

    loaded: Any = None

    def _get_iterator(self) -> Any:
        self.running = super()._get_iterator()
        if self.loaded is not None:
            self.running._sampler_iter.load_state_dict(self.loaded)
            self.running._num_yielded, self.loaded = self.loaded["place"], None
        return self.running

    def state_dict(self) -> dict[str, Any]:
        return self.running._sampler_iter.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_progress_goes_on_within_an_epoch(solo: Any, tmp_path: Any) -> None:
    """A checkpoint holds the step at which the epoch began, and the pace of the one before."""

    def run(*saves: Any, resume: Any = None) -> tuple[list[Any], dict[str, Any]]:
        shrinking = Scheduled(RandomSubset(1.0), keep=(1.0, 0.2))
        net, callback = solo.make(Classifier), ExampleSelection(shrinking, refill=True, skip_loading=True)
        trainer = solo.trainer(callback, *saves, max_epochs=-1, max_steps=20, enable_checkpointing=bool(saves))
        torch.manual_seed(0)
        trainer.fit(net, Placed(loader(N, BATCH).dataset, BATCH), ckpt_path=resume)
        return list(net.steps), callback.counters.state_dict()

    whole, counted = run(solo.pl.callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1))
    for step in range(1, 20):
        rest, counts = run(resume=tmp_path / f"step={step}.ckpt")
        assert rest == whole[step:], step
        assert (counts["seen"], counts["trained"]) == (counted["seen"], counted["trained"])


def test_another_training_has_a_pace_of_its_own(solo: Any) -> None:
    callback = ExampleSelection(Scheduled(RandomSubset(1.0, seed=0), keep=(1.0, 0.2)), refill=True, skip_loading=True)
    first, second = solo.make(Classifier), solo.make(Classifier)
    for net in (first, second):
        solo.fit(net, callback, data=loader(N, BATCH), max_epochs=-1, max_steps=20)
    assert first.steps == second.steps


AHEAD = {
    "targets": lambda: ExampleSelection(Stratified(LossPercentile(0.5, seed=0)), scoring="ledger"),
    "rescored": lambda: SelectiveBackprop(0.5, rescore_every=2, seed=0),
    "scheduled": lambda: ExampleSelection(Scheduled(RandomSubset(1.0, seed=0), keep=(1.0, 0.2)), skip_loading=True),
    "remembered": lambda: SelectiveBackprop(0.5, seed=0),
}


@pytest.mark.parametrize("limit", [3, 0.6])
@pytest.mark.parametrize("name", AHEAD)
def test_workers_that_are_sent_ahead_of_a_limit_change_nothing(solo: Any, name: str, limit: float) -> None:
    found = []
    for workers in (0, 2):
        net, callback = solo.make(Classifier), AHEAD[name]()
        data = loader(N, BATCH, num_workers=workers, persistent_workers=workers > 0)
        solo.fit(net, callback, data=data, max_epochs=5, limit_train_batches=limit)
        found.append({"steps": list(net.steps), "weights": net.state_dict()})
    assert differences(*found) == []


class Factor(Classifier):
    """Notes how far its selector was told that training is, when each epoch begins."""

    def on_train_start(self) -> None:
        (callback,) = [each for each in self.trainer.callbacks if isinstance(each, ExampleSelection)]
        selector, self.told = callback.selector, []
        at = selector.at

        def noted(progress: Any, epoch: int, epochs: Any) -> None:
            self.told.append((epoch, progress))
            at(progress, epoch, epochs)

        selector.at = noted


def test_the_progress_of_an_epoch_that_begins(solo: Any) -> None:
    """Loops still stand at the end of the one before, when the learning rate of the next is made out."""
    net = solo.make(Factor)
    solo.fit(net, ExampleSelection(HideLearned(0.3), refill=True), data=loader(N, BATCH), max_epochs=4)
    first = {epoch: next(each for at, each in net.told if at == epoch) for epoch in range(4)}
    assert first == {0: 0.0, 1: 0.25, 2: 0.5, 3: 0.75}


class Normed(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(WIDTH)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        return F.cross_entropy(self.net(self.norm(x)), y)


def test_no_single_row_is_scored_with_batch_statistics(solo: Any) -> None:
    net = solo.make(Normed)
    data = loader(N, BATCH, shuffle=True)
    callback = ExampleSelection(LossPercentile(0.9, seed=0), scoring=ScoringPass("train"), max_age=1, warmup=0)
    solo.fit(net, callback, data=data, max_epochs=8)
    assert 1 not in net.passes
    assert set(net.passes) - {BATCH}, "otherwise only what is outdated is scored"


class Sparse(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        if not len(y):
            return None
        self.note(y)
        return F.cross_entropy(self.net(x.to_dense()), y)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_sparse_and_empty_batches(solo: Any) -> None:
    full = (torch.eye(WIDTH).to_sparse(), torch.arange(WIDTH) % CLASSES)
    empty = (torch.zeros(0, WIDTH).to_sparse(), torch.zeros(0, dtype=torch.int64))
    net = solo.make(Sparse)
    solo.fit(net, ExampleSelection(RandomSubset(0.4, seed=0)), data=loader_of([full, empty, full]))
    assert [len(rows) for rows in net.steps] == [2, 2]
