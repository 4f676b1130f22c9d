"""What `SelectiveBackprop` selects by unless told: remembered losses, or a pass where there can be none."""

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from litselect.callbacks import Budget, SelectiveBackprop
from litselect.scoring import ScoringPass
from tests.callbacks import ranks
from tests.callbacks.kit import Classifier, differences, loader, rows, weights
from tests.callbacks.runs import ADVICE, Net, Noisy

N, BATCH = 48, 12  # four batches an epoch
ALL, HALF = [12] * 4, [6] * 4
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '\\w+_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You requested to overfit"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]


def data(**settings: Any) -> Any:
    return loader(N, BATCH, **settings)


class Said:
    """Collects what is said of the choice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "info", self._take)

    def _take(self, message: str, *values: Any) -> None:
        if "can't be remembered" in message:
            self.lines.append(message % values)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return Said(monkeypatch).lines


def fit(solo: Any, module: Any = Classifier, batches: Any = None, epochs: int = 3, **settings: Any) -> Any:
    """The numbers of rows of each step, and the callback."""
    trainer = {name: settings.pop(name) for name in [*settings] if name in TRAINER}
    net, callback = solo.make(module), SelectiveBackprop(**({"keep": 0.5, "seed": 0} | settings))
    solo.fit(net, callback, data=data() if batches is None else batches, **({"max_epochs": epochs} | trainer))
    return [len(ids) for ids in net.steps], callback


TRAINER = (
    "max_epochs",
    "max_steps",
    "limit_train_batches",
    "overfit_batches",
    "fast_dev_run",
    "accumulate_grad_batches",
)


def remembers(callback: SelectiveBackprop) -> bool:
    """As seen from outside: nothing was scored, and there is a ledger."""
    assert (callback.counters.scored == 0) == (callback.ledger is not None)
    return callback.ledger is not None


# ---------------------------------------------------------------------- where losses can be remembered


@pytest.mark.parametrize(("epochs", "first"), [(4, "what was never trained"), (3, "an epoch of all rows")])
def test_the_log_says_how_it_begins(solo: Any, caplog: pytest.LogCaptureFixture, epochs: int, first: str) -> None:
    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        fit(solo, epochs=epochs)
    assert [r.getMessage() for r in caplog.records if "remembered losses" in r.getMessage()] == [
        f'SelectiveBackprop selects by remembered losses, as scoring="ledger" says: first comes {first}'
    ]


def test_losses_are_remembered(solo: Any, said: list[str]) -> None:
    steps, callback = fit(solo)
    assert steps == ALL + HALF + HALF
    assert remembers(callback)
    assert callback.ledger.trained.sum() == 96
    assert said == []


@pytest.mark.parametrize(
    ("settings", "floor"), [({}, 0.1), ({"keep": 0.12}, 0.06), ({"floor": 0.03}, 0.03), ({"floor": 0.0}, 0.0)]
)
def test_the_floor(solo: Any, settings: dict[str, Any], floor: float) -> None:
    _, callback = fit(solo, **settings)
    assert remembers(callback)
    assert callback.selector.floor == floor
    _, callback = fit(solo, **settings, epochs=1)
    assert not remembers(callback)
    assert callback.selector.floor == settings.get("floor", 0.0)
    asked = SelectiveBackprop(**({"keep": 0.5} | settings), scoring=ScoringPass())
    assert asked.selector.floor == settings.get("floor", 0.0)


def test_it_is_the_ledger_that_can_be_asked_for(solo: Any) -> None:
    nets = [solo.make(Classifier) for _ in range(2)]
    for net, settings in zip(nets, ({}, {"scoring": "ledger"}), strict=True):
        solo.fit(net, SelectiveBackprop(keep=0.5, seed=0, **settings), data=data(), max_epochs=3)
    assert nets[0].steps == nets[1].steps
    assert differences(weights(nets[0]), weights(nets[1])) == []


def test_hard_examples_are_trained_more_often_and_none_is_left(solo: Any) -> None:
    _, callback = fit(solo, keep=0.25, epochs=40)
    trained, loss = callback.ledger.trained, callback.ledger.loss
    hard = loss.argsort(descending=True)[: N // 4]
    assert trained[hard].float().mean() > 1.2 * trained.float().mean()
    assert trained.min() >= 2


@pytest.mark.parametrize(
    "settings",
    [{"batches": "shuffled"}, {"skip_loading": False}, {"ids": lambda batch: batch[2]}, {"warmup": 1}, {"end": 2},
     {"max_steps": 5, "max_epochs": -1}, {"limit_train_batches": 4}, {"limit_train_batches": 1.0}],
)  # fmt: skip
def test_what_does_not_stand_against_it(solo: Any, settings: dict[str, Any], said: list[str]) -> None:
    if settings.get("batches"):
        settings = {"batches": data(shuffle=True, num_workers=1)}
    steps, callback = fit(solo, **settings)
    assert steps[:5] == [*ALL, 6]
    assert remembers(callback)
    assert said == []


# ---------------------------------------------------------------------- how it begins


def firsts(net: Any) -> list[int]:
    """Ids of the steps up to the one that trains an example again."""
    found: list[int] = []
    for ids in net.steps:
        if set(ids) & set(found):
            break
        found += ids
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_long_training_begins_with_each_example_once(solo: Any, workers: int) -> None:
    net, callback = solo.make(Classifier), SelectiveBackprop(keep=0.25, seed=0)
    solo.fit(net, callback, data=data(shuffle=True, num_workers=workers), max_epochs=12)
    assert {len(ids) for ids in net.steps} == {3}
    assert len(firsts(net)) > N - 6  # in the last of the epochs that it takes, batches have too few, or too many
    assert sorted({i for ids in net.steps[:20] for i in ids}) == [*range(N)]
    assert remembers(callback)


class Loaded(TensorDataset):
    """Counts what it is asked for."""

    def __init__(self, *columns: Any) -> None:
        super().__init__(*columns)
        self.asked: list[int] = []

    def __getitem__(self, i: Any) -> Any:
        self.asked.append(i)
        return super().__getitem__(i)


def test_the_first_epoch_loads_everything_and_the_others_what_is_chosen(solo: Any) -> None:
    """So what stands against remembered losses can be noticed, and nothing is wasted afterwards."""
    examples = Loaded(*rows(N))
    fit(solo, batches=DataLoader(examples, BATCH), epochs=6)
    assert len(examples.asked) == N + 5 * N // 2
    assert examples.asked[:N] == [*range(N)]


def test_selection_may_begin_within_an_epoch(solo: Any) -> None:
    """From there on rows are chosen before they are loaded, as something is known."""
    examples = Loaded(*rows(N))
    steps, _ = fit(solo, batches=DataLoader(examples, BATCH), epochs=3, warmup=1.5)
    assert steps == [*ALL, 12, 12, 6, 6, *HALF]
    assert len(examples.asked) == sum(steps)


@pytest.mark.parametrize(
    ("settings", "at_once"),
    [({"epochs": 4}, True), ({"epochs": 3}, False), ({"keep": 0.25, "epochs": 8}, True),
     ({"keep": 0.25, "epochs": 7}, False), ({"max_steps": 16, "max_epochs": -1}, True),
     ({"max_steps": 15, "max_epochs": -1}, False), ({"epochs": 8, "end": 0.5}, True), ({"epochs": 8, "end": 3}, False),
     ({"epochs": 8, "warmup": 1}, False)],
)  # fmt: skip
def test_how_long_it_must_be(solo: Any, settings: dict[str, Any], at_once: bool) -> None:
    steps, callback = fit(solo, **settings)
    assert steps[0] == (round(settings.get("keep", 0.5) * BATCH) if at_once else BATCH)
    assert remembers(callback)


@pytest.mark.parametrize("scheduled", [True, False])
def test_steps_of_several_batches_last_longer(solo: Any, scheduled: bool) -> None:
    """Of 4 steps, 4 batches each, there are 4 epochs, whoever sets how many make one."""
    schedule = solo.pl.callbacks.GradientAccumulationScheduler({0: 4})
    callback, module = SelectiveBackprop(keep=0.5, seed=0), solo.make(Classifier)
    settings = {} if scheduled else {"accumulate_grad_batches": 4}
    others = [schedule] if scheduled else []
    solo.fit(module, callback, *others, data=data(), max_steps=4, max_epochs=-1, **settings)
    assert remembers(callback)
    assert len(module.steps[0]) == BATCH // 2


@pytest.mark.filterwarnings("ignore:Training ended with")
@pytest.mark.parametrize(
    ("budget", "epochs", "at_once"),
    [({"trained": 2 * N}, -1, True), ({"candidates": 4 * N}, -1, True), ({"candidates": 3 * N}, -1, False),
     ({"trained": 3 * N // 2}, -1, False), ({"trained": 20 * N}, 3, False), ({"trained": 20 * N}, 4, True),
     ({"seconds": 3600}, 3, False),
     ({"seconds": 3600}, 4, True), ({"flops": 1e15}, 3, False)],
)  # fmt: skip
def test_how_long_a_budget_must_last(solo: Any, budget: dict[str, Any], epochs: int, at_once: bool) -> None:
    """Of rows that are trained, as many as of a training of so many epochs; and the Trainer's own limit holds."""
    net, callback = solo.make(Classifier), SelectiveBackprop(keep=0.5, seed=0)
    solo.fit(net, callback, Budget(**budget), data=data(), max_epochs=epochs)
    counting = "flops" in budget  # which runs a step of its own first
    assert (len(net.steps[counting]) == 6) == at_once
    assert remembers(callback)


# ---------------------------------------------------------------------- who says where scores come from


@pytest.mark.parametrize(
    "settings",
    [{"scoring": ScoringPass()}, {"rescore_every": 1}, {"max_age": 0}, {"refill": True}, {"across_ranks": True},
     {"reuse_forward": True}, {"ledger": True}, {"warmup": 0}, {"warmup": 0.5}],
)  # fmt: skip
def test_who_asks_for_a_pass_gets_it(solo: Any, settings: dict[str, Any], said: list[str]) -> None:
    _, callback = fit(solo, **settings)
    assert callback.counters.scored > 0
    assert not callback.plan.free
    assert callback.selector.floor == 0
    assert said == []  # which is what was asked for


def test_settings_that_say_nothing(solo: Any) -> None:
    _, callback = fit(solo, scoring=None, refill=False, across_ranks=False, reuse_forward=False, ledger=False)
    assert remembers(callback)


# ---------------------------------------------------------------------- modules


class OwnLosses(Classifier):
    def example_losses(self, batch: Any) -> torch.Tensor:
        return self.losses(batch)


class ByHand(Classifier):
    """Computes its loss by hand while it trains."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        if torch.is_grad_enabled():
            return -self.net(x).log_softmax(1).gather(1, y[:, None]).mean()
        return F.cross_entropy(self.net(x), y)


class Mixed(Classifier):
    """Rows with two labels."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        logits = self.net(x)
        return 0.7 * F.cross_entropy(logits, y) + 0.3 * F.cross_entropy(logits, (y + ids) % 3)


class Manual(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def test_manual_optimization_is_overheard(solo: Any) -> None:
    steps, callback = fit(solo, Manual)
    assert steps == ALL + HALF + HALF
    assert remembers(callback)


def passing(solo: Any, module: Any, batches: Any = None, **settings: Any) -> Any:
    """The ids of each step of a training whose scoring pass was asked for."""
    net = solo.make(module)
    callback = SelectiveBackprop(keep=0.5, seed=0, scoring=ScoringPass(), **settings)
    solo.fit(net, callback, data=data() if batches is None else batches, max_epochs=3)
    return net


@pytest.mark.parametrize(
    ("module", "settings", "reason"),
    [(OwnLosses, {}, "OwnLosses.*example_losses computes"),
     (Classifier, {"loss_fn": lambda module, batch: module.losses(batch)}, "loss_fn computes")],
)  # fmt: skip
def test_losses_that_are_computed_elsewhere(
    solo: Any, module: Any, settings: dict[str, Any], reason: str, said: list[str]
) -> None:
    """From the start it is what a pass that was asked for is."""
    net, callback = solo.make(module), SelectiveBackprop(keep=0.5, seed=0, **settings)
    solo.fit(net, callback, data=data(), max_epochs=3)
    assert not remembers(callback)
    assert net.steps == passing(solo, module, **settings).steps
    assert len(said) == 1
    assert re.search(reason, said[0])


def test_a_compiled_module(solo: Any, said: list[str]) -> None:
    class Quiet(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    net, callback = solo.make(Quiet), SelectiveBackprop(keep=0.5)
    solo.fit(torch.compile(net, backend="eager"), callback, data=data(), max_epochs=3)
    assert not remembers(callback)
    assert len(said) == 1
    assert "is compiled" in said[0]


@pytest.mark.parametrize("epochs", [3, 8])
@pytest.mark.parametrize(("module", "reason"), [(ByHand, "none could be told apart"), (Mixed, "mixup and cutmix")])
def test_what_the_first_epoch_shows(solo: Any, module: Any, reason: str, epochs: int, said: list[str]) -> None:
    steps, callback = fit(solo, module, epochs=epochs)
    assert steps == (ALL if epochs == 3 else HALF) + HALF * (epochs - 1)
    assert callback.ledger is None
    assert callback.counters.scored == N * (epochs - 1)
    assert len(said) == 1
    assert reason in said[0]


@pytest.mark.parametrize("epochs", [3, 8])
def test_it_is_too_late_once_rows_are_chosen_by_what_is_remembered(solo: Any, epochs: int) -> None:
    class Later(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.current_epoch == 1:
                return super().training_step(batch, batch_idx)
            return Classifier.training_step(self, batch, batch_idx)

    with pytest.raises(Exception, match=r"none could be told apart.*Score every batch instead"):
        fit(solo, Later, epochs=epochs)


# ---------------------------------------------------------------------- loaders


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(list(zip(*rows(N), strict=True)))


class Own(DataLoader[Any]):
    def __iter__(self) -> Any:
        return super().__iter__()


class Words(TensorDataset):
    """Examples that have names."""

    def __getitem__(self, name: Any) -> Any:
        return super().__getitem__(int(name[1:]))


class Named(BatchSampler):
    def __init__(self) -> None:
        super().__init__(SequentialSampler(range(N)), BATCH, drop_last=False)

    def __iter__(self) -> Any:
        return ([f"n{i}" for i in batch] for batch in super().__iter__())


class Negative(Named):
    def __iter__(self) -> Any:
        return ([i - N for i in batch] for batch in BatchSampler.__iter__(self))


class Unsized(TensorDataset):
    __len__ = property()  # type: ignore[assignment]


def test_a_stream_without_end_is_selected_from(solo: Any) -> None:
    """Of which there may be one epoch alone."""
    net = solo.make(Classifier)
    batches = [batch for _ in range(30) for batch in data()]
    solo.fit(net, SelectiveBackprop(keep=0.5), data=DataLoader(Endless(batches), None), max_epochs=1)
    assert [len(ids) for ids in net.steps] == [12] * 100 + [6] * 20


class Endless(IterableDataset[Any]):
    """Nobody knows how long it is."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def two() -> Any:
    return {"a": data(), "b": data()}


class Two(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch["a"], batch_idx)


def fewer(examples: list[Any]) -> Any:
    return default_collate(examples[1:])


LOADERS: dict[str, tuple[Any, str]] = {
    "stream": (lambda: DataLoader(Stream(), BATCH), "iterated without one"),
    "own iteration": (lambda: Own(TensorDataset(*rows(N)), BATCH), "a way of its own"),
    "any order": (lambda: data(num_workers=1, in_order=False), "in_order=False"),
    "several": (two, "got several"),
}
IN_BATCHES: dict[str, tuple[Any, str]] = {
    "names": (lambda: DataLoader(Words(*rows(N)), batch_sampler=Named()), "'n0'"),
    "negative": (lambda: DataLoader(TensorDataset(*rows(N)), batch_sampler=Negative()), "-48"),
    "rows dropped": (lambda: data(collate_fn=fewer), "adds or drops rows"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_loaders_without_ids(solo: Any, name: str, said: list[str]) -> None:
    """Training is what it is with a pass that was asked for."""
    make, reason = LOADERS[name]
    net, callback = solo.make(Two if name == "several" else Classifier), SelectiveBackprop(keep=0.5, seed=0)
    trainer = solo.fit(net, callback, data=make(), max_epochs=3)
    assert not remembers(callback)
    assert net.steps == passing(solo, Two if name == "several" else Classifier, make()).steps
    assert len(said) == 1
    assert reason in said[0]
    assert "process_dataloader" not in vars(trainer.strategy)


@pytest.mark.parametrize("name", IN_BATCHES)
def test_batches_without_ids(solo: Any, name: str, said: list[str]) -> None:
    make, reason = IN_BATCHES[name]
    steps, callback = fit(solo, batches=make())
    n = BATCH - (name == "rows dropped")
    assert steps == [n] * 4 + [round(n / 2)] * 8
    assert callback.ledger is None
    assert len(said) == 1
    assert reason in said[0]
    with pytest.raises((ValueError, RuntimeError), match=reason):  # which it is for who asks for the ledger
        fit(solo, batches=make(), scoring="ledger")


def test_a_loader_of_no_use_in_a_later_epoch(solo: Any, said: list[str]) -> None:
    class Changing(Classifier):
        def train_dataloader(self) -> Any:
            return DataLoader(Stream(), BATCH) if self.trainer.current_epoch == 2 else data()

    net, callback = solo.make(Changing), SelectiveBackprop(keep=0.5)
    trainer = solo.trainer(callback, max_epochs=4, reload_dataloaders_every_n_epochs=1)
    trainer.fit(net)
    assert [len(ids) for ids in net.steps] == HALF * 4
    assert callback.counters.scored == 96
    assert len(said) == 1
    assert "iterated without one" in said[0]


# ---------------------------------------------------------------------- trainings that are too short


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"epochs": 1}, "first epoch"),
     ({"max_steps": 4, "max_epochs": -1}, "first epoch"),
     ({"max_steps": 2, "max_epochs": 9, "accumulate_grad_batches": 2}, "first epoch"),
     ({"end": 1}, "first epoch"), ({"end": 1 / 3}, "first epoch"),
     ({"fast_dev_run": 2}, "limit_train_batches=2"), ({"limit_train_batches": 3}, "limit_train_batches=3"),
     ({"limit_train_batches": 0.5}, "limit_train_batches=0.5"), ({"overfit_batches": 2}, "limit_train_batches=2")],
)  # fmt: skip
def test_what_is_known_too_late(solo: Any, settings: dict[str, Any], reason: str, said: list[str]) -> None:
    _, callback = fit(solo, **settings)
    assert not remembers(callback)
    assert len(said) == 1
    assert reason in said[0]


@pytest.mark.parametrize(("epochs", "remembered"), [(0.75, False), (1, False), (1.25, True)])
def test_a_budget_may_end_with_the_first_epoch(solo: Any, epochs: float, remembered: bool, said: list[str]) -> None:
    net, callback = solo.make(Classifier), SelectiveBackprop(keep=0.5, seed=0)
    solo.fit(net, callback, Budget(candidates=round(epochs * N)), data=data(), max_epochs=-1)
    assert remembers(callback) == remembered
    assert min(len(ids) for ids in net.steps) == 6  # it selects in any case
    assert len(said) == (not remembered)


# ---------------------------------------------------------------------- several fits, checkpoints


def test_a_second_fit_starts_anew(solo: Any, said: list[str]) -> None:
    callback = SelectiveBackprop(keep=0.5)
    for epochs, expected in ((1, False), (3, True), (1, False)):
        solo.fit(solo.make(Classifier), callback, data=data(), max_epochs=epochs)
        assert (callback.counters.scored == 0) == (callback.ledger is not None) == expected
    assert len(said) == 2


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_same_trainer_goes_on_as_it_did(solo: Any, epochs: int, said: list[str]) -> None:
    callback, net = SelectiveBackprop(keep=0.5), solo.make(Classifier)
    trainer = solo.fit(net, callback, data=data(), max_epochs=epochs)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(net, data())
    assert remembers(callback) == (epochs == 2)
    assert len(said) == (2 if epochs == 1 else 0)


def test_a_checkpoint_says_which_it_was(solo: Any, tmp_path: Path, said: list[str]) -> None:
    """One epoch is scored; more of them, after it, are scored too. Weights of a training without us say nothing."""
    callback = SelectiveBackprop(keep=0.5)
    solo.fit(solo.make(Classifier), callback, data=data(), max_epochs=1).save_checkpoint(tmp_path / "scored")
    solo.fit(solo.make(Classifier), callback, data=data(), max_epochs=2).save_checkpoint(tmp_path / "remembered")
    solo.fit(solo.make(Classifier), data=data(), max_epochs=1).save_checkpoint(tmp_path / "plain")
    said.clear()
    for name, expected in (("scored", False), ("remembered", True), ("plain", False)):
        again = SelectiveBackprop(keep=0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solo.trainer(again, max_epochs=4).fit(solo.make(Classifier), data(), ckpt_path=tmp_path / name)
        assert (again.ledger is not None) == expected
        assert len(said) == (not expected)
        assert again.phase.warmup == (1 if expected else "auto")
        said.clear()


# ---------------------------------------------------------------------- two ranks


class Dealt(BatchSampler):
    """Deals batches out to the ranks, and says so or doesn't."""

    def __init__(self, rank: int) -> None:
        super().__init__(DistributedSampler(range(len(Noisy())), 2, rank, shuffle=False), 8, drop_last=False)


class Silently(Dealt):
    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        self.sampler = [*self.sampler]  # type: ignore[assignment]


class OnOneRank(Net):
    """Whose losses rank 1 computes by hand."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_rank == 0 or not torch.is_grad_enabled():
            return super().training_step(batch, batch_idx)
        x, y, ids = batch
        self.steps.append(ids.tolist())
        return -self.net(x).log_softmax(1).gather(1, y[:, None]).mean()


def fit_on_ranks(case: str) -> Any:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    lines = Said(pytest.MonkeyPatch()).lines
    pl.seed_everything(5, verbose=False)
    module, callback = (OnOneRank() if case == "by hand" else Net()), SelectiveBackprop(keep=0.4)
    with warnings.catch_warnings():
        for advice in ADVICE:
            warnings.filterwarnings("ignore", advice)
        trainer = pl.Trainer(
            max_epochs=3, callbacks=[callback], accelerator="cpu", devices=2, strategy="ddp", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=not case.startswith("dealt"),
        )  # fmt: skip
        batches: Any = DataLoader(Noisy(), 8, shuffle=True)
        if case.startswith("dealt"):
            sampler = (Silently if case == "dealt silently" else Dealt)(trainer.global_rank)
            batches = DataLoader(Noisy(), batch_sampler=sampler)
        elif case == "any order" and trainer.global_rank == 1:
            batches = DataLoader(Noisy(), 8, shuffle=True, num_workers=1, in_order=False)
        trainer.fit(module, batches)
    counters = callback.counters
    return callback.ledger is not None, counters.scored > 0, lines, [len(ids) for ids in module.steps]


@pytest.mark.parametrize(
    ("case", "reason"),
    [("shuffled", ""), ("dealt", ""), ("dealt silently", "Silently is not known to deal"),
     ("any order", "in_order=False"), ("by hand", "none could be told apart")],
)  # fmt: skip
def test_ranks_agree(case: str, reason: str) -> None:
    found = ranks.run(2, fit_on_ranks, case, timeout=200)
    for ledger, scored, _, _ in found:
        assert (ledger, scored) == (not reason, bool(reason))
    assert [len(lines) for _, _, lines, _ in found] == [bool(reason), 0]  # said once, by rank 0
    assert reason in "".join(found[0][2])
    assert found[0][3] == found[1][3]
