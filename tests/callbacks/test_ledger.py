"""The ledger of a training: whose loss is whose, where scores come from, what is loaded."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from litselect.callbacks import ExampleSelection, SelectiveBackprop, tapped_sampler
from litselect.callbacks.example_memory import ExampleMemory
from litselect.selectors import (
    InfoBatch,
    KeepAll,
    LossPercentile,
    RandomSubset,
    RankSampling,
    Selection,
    Selector,
    Stratified,
    TopLoss,
    Uncertainty,
)
from tests.callbacks.kit import Classifier, Notes, differences, rows

N, BATCH = 60, 12
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
    pytest.mark.filterwarnings("ignore:The '\\w+_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Selection by .* never begins"),  # many a test needs one epoch alone
]


class Counted(Dataset[Any]):
    """Counts how often it is asked for an example, in this process."""

    def __init__(self, n: int = N) -> None:
        self.rows = rows(n)
        self.loaded = [0] * n

    def __len__(self) -> int:
        return len(self.loaded)

    def __getitem__(self, i: int) -> Any:
        self.loaded[i] += 1
        return tuple(column[i] for column in self.rows)


class Noting(Classifier):
    """Notes the losses of the rows that it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.noted = Notes()  # dicts of losses by id, one a step

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        losses = F.cross_entropy(self.net(x), y, reduction="none").detach()
        if torch.is_grad_enabled():
            self.noted.append(dict(zip(ids.tolist(), losses.tolist(), strict=True)))
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


def trained(net: Any) -> list[int]:
    """How often each example was trained, by what the module saw."""
    return np.bincount([i for ids in net.steps for i in ids], minlength=N).tolist()


def ledger_scored(**settings: Any) -> SelectiveBackprop:
    return SelectiveBackprop(**({"keep": 0.25, "floor": 0.05, "scoring": "ledger"} | settings))


FORMS: dict[str, Any] = {
    "ledger": ledger_scored,
    "ledger, loaded first": lambda **more: ledger_scored(skip_loading=False, **more),
    "ledger, refill": lambda **more: ledger_scored(refill=True, **more),
    "stale": lambda **more: SelectiveBackprop(**({"keep": 0.25, "rescore_every": 2, "warmup": 0} | more)),
    "ages": lambda **more: SelectiveBackprop(**({"keep": 0.25, "max_age": 1} | more)),
    "every batch": lambda **more: ExampleSelection(TopLoss(0.25), ledger=True, **more),
    "blind": lambda **more: ExampleSelection(RandomSubset(0.25), skip_loading=True, ledger=True, **more),
}
forms = pytest.mark.parametrize("form", FORMS)


# ---------------------------------------------------------------------- whose batch it is


class Backwards(BatchSampler):
    """A batch sampler of someone's own, without attributes."""

    def __init__(self) -> None:
        pass

    def __iter__(self) -> Any:
        yield from ([*range(i + 9, i - 1, -1)] for i in range(0, N, 10))

    def __len__(self) -> int:
        return N // 10


LOADERS: dict[str, dict[str, Any]] = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "workers": {"shuffle": True, "num_workers": 2},
    "persistent workers": {"shuffle": True, "num_workers": 1, "persistent_workers": True, "prefetch_factor": 5},
    "last batch short": {"batch_size": 16},
    "last batch dropped": {"batch_size": 16, "drop_last": True, "shuffle": True},
    "with replacement": {"sampler": WeightedRandomSampler([1.0 + i % 3 for i in range(N)], N)},
    "own batch sampler": {"batch_sampler": Backwards(), "batch_size": 1},
}


def loader(data: Any = None, **settings: Any) -> Any:
    return DataLoader(Counted() if data is None else data, **({"batch_size": BATCH} | settings))


class Reading:
    """Reads the ledger after every batch, as a checkpoint of every step does."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        assert trainer.callbacks[0].ledger.size == N


@pytest.mark.parametrize("form", ["ledger", "ledger, refill", "ages", "stale"])
def test_who_reads_the_ledger_changes_nothing(solo: Any, form: str) -> None:
    """Rows that wait for a full batch may be trained twice before their first losses are entered."""
    found = []
    for more in ([], [solo.callback(Reading)]):
        callback = FORMS[form](seed=0)
        solo.fit(solo.make(Classifier), callback, *more, data=loader(shuffle=True, generator=seeded()), max_epochs=6)
        found.append(callback.ledger.state_dict())
    assert differences(*found) == []


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("name", LOADERS)
def test_every_example_is_found(solo: Any, name: str) -> None:
    net, callback, data = solo.make(Noting), ledger_scored(), loader(**LOADERS[name])
    solo.fit(net, callback, data=data, max_epochs=3)
    assert callback.ledger.trained.tolist() == trained(net)
    newest: dict[int, float] = {}
    for losses in net.noted:
        newest |= losses
    found = {i: float(callback.ledger.loss[i]) for i in newest}
    assert found == pytest.approx(newest, rel=1e-5)


def test_they_would_not_be_found_one_place_off(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    note = tapped_sampler.TappedIterator.__next__

    def late(self: Any) -> Any:
        if not self.deliveries and not self._place:
            self._place = -1
        return note(self)

    monkeypatch.setattr(tapped_sampler.TappedIterator, "__next__", late)
    with pytest.raises(RuntimeError, match="had not been asked for it"):
        solo.fit(solo.make(Noting), ledger_scored(), data=loader(), max_epochs=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"reload_dataloaders_every_n_epochs": 1},
        {"limit_train_batches": 3},
        {"overfit_batches": 2},
        {"accumulate_grad_batches": 2},
        {"val_check_interval": 2},
    ],
)
@forms
def test_options_of_the_trainer(solo: Any, form: str, settings: dict[str, Any]) -> None:
    if form == "ledger, refill" and "accumulate_grad_batches" in settings:
        return
    net, callback = solo.make(Noting), FORMS[form]()
    data = loader(shuffle="overfit_batches" not in settings)
    solo.fit(net, callback, data=data, max_epochs=4, **settings)
    assert callback.ledger.trained.tolist() == trained(net)
    assert int(callback.ledger.seen.sum()) == callback.counters.seen
    assert int(callback.ledger.scored.sum()) <= callback.counters.scored


def test_someone_else_may_read_the_loader(solo: Any) -> None:
    class Looking:
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            next(iter(trainer.train_dataloader))

    net, callback = solo.make(Noting), ledger_scored()
    solo.fit(net, callback, solo.callback(Looking), data=loader(shuffle=True), max_epochs=3)
    assert callback.ledger.trained.tolist() == trained(net)


def test_the_loader_is_as_it_was(solo: Any) -> None:
    data = loader(shuffle=True, num_workers=1, persistent_workers=True)
    sampler = data.batch_sampler
    for _ in range(2):
        net, callback = solo.make(Noting), ledger_scored()
        trainer = solo.fit(net, callback, data=data, max_epochs=2)
        assert data.batch_sampler is sampler
        assert "process_dataloader" not in vars(trainer.strategy)
        assert callback.ledger.trained.tolist() == trained(net)

    class Broken(Noting):
        def configure_optimizers(self) -> Any:
            raise OSError("early")

    with pytest.raises(OSError, match="early"):
        solo.fit(solo.make(Broken), ledger_scored(), data=data)
    assert data.batch_sampler is sampler


def test_schedules_that_ask_for_the_number_of_steps_come_first(solo: Any) -> None:
    class Scheduled(Noting):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            steps = self.trainer.estimated_stepping_batches  # sets the loader up before anything else
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    net, callback = solo.make(Scheduled), ledger_scored()
    solo.fit(net, callback, data=loader(shuffle=True), max_epochs=3)
    assert callback.ledger.trained.tolist() == trained(net)


def test_ids_from_the_batch(solo: Any) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(list(zip(*rows(N), strict=True)))

    net, callback = solo.make(Noting), ledger_scored(ids=lambda batch: batch[2])
    solo.fit(net, callback, data=loader(Stream()), max_epochs=3)
    assert callback.ledger.trained[:N].tolist() == trained(net)


# ---------------------------------------------------------------------- refused


class Own(DataLoader[Any]):
    def __iter__(self) -> Any:
        yield from super().__iter__()


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(list(zip(*rows(N), strict=True)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: Own(Counted(), BATCH), "iterates in a way of its own"),
        (lambda: loader(Stream()), "iterated without one"),
        (lambda: DataLoader(TensorDataset(*rows(N)), batch_size=None, sampler=[[0, 1], [2, 3]]), "without one"),
        (lambda: loader(num_workers=1, in_order=False), "in_order=True"),
        (lambda: [tuple(column[:8] for column in rows(N))] * 2, "iterates in a way of its own"),
    ],
)
def test_loaders_whose_batches_can_not_be_matched(solo: Any, data: Any, message: str) -> None:
    net = solo.make(Noting)
    with pytest.raises(ValueError, match=rf"{message}.*ids=lambda batch"):
        solo.fit(net, ledger_scored(), data=data())
    assert not net.steps


def test_two_loaders(solo: Any) -> None:
    class Two(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"], batch_idx)

    with pytest.raises(ValueError, match=r"one DataLoader.*ids=lambda"):
        solo.fit(solo.make(Two), ledger_scored(), data={"a": loader(), "b": loader()})


def test_a_collate_function_that_drops_rows(solo: Any) -> None:
    collate = lambda examples: torch.utils.data.default_collate(examples[1:])  # noqa: E731
    with pytest.raises(RuntimeError, match="adds or drops rows"):
        solo.fit(solo.make(Noting), ledger_scored(), data=loader(collate_fn=collate))


@pytest.mark.parametrize(
    "found",
    [torch.zeros(3).long(), torch.zeros(BATCH), torch.ones(BATCH).bool(), None, -torch.ones(BATCH).long()],
)
def test_ids_that_are_none(solo: Any, found: Any) -> None:
    with pytest.raises(ValueError, match="one integer >= 0 for each row"):
        solo.fit(solo.make(Noting), ledger_scored(ids=lambda batch: found), data=loader())


def test_ids_that_are_keys_of_something_else(solo: Any) -> None:
    """A ledger up to the largest would not fit into any memory."""
    with pytest.raises(ValueError, match=r"positions of the examples .* but found 70000000000"):
        solo.fit(solo.make(Noting), ledger_scored(ids=lambda batch: batch[2] + 7 * 10**12), data=loader())


class WithOwnLosses(Noting):
    def example_losses(self, batch: Any) -> torch.Tensor:
        return self.losses(batch)


@pytest.mark.parametrize(
    ("make", "module", "message"),
    [
        (lambda: ledger_scored(rescore_every=2), Noting, "answers to one question"),
        (lambda: ledger_scored(max_age=2), Noting, "answers to one question"),
        (lambda: SelectiveBackprop(0.5, rescore_every=0), Noting, "rescore_every >= 1"),
        (lambda: SelectiveBackprop(0.5, max_age=-1), Noting, "max_age >= 0"),
        (lambda: ledger_scored(across_ranks=True), Noting, "across_ranks=False"),
        (lambda: ExampleSelection(Uncertainty(0.5), scoring="ledger"), Noting, r"needs logits.*ScoringPass"),
        (lambda: ExampleSelection(TopLoss(0.5), skip_loading=True), Noting, "known only after they are scored"),
        (lambda: ledger_scored(skip_loading=True, ids=lambda batch: batch[2]), Noting, "Leave skip_loading out"),
        (ledger_scored, WithOwnLosses, "example_losses says"),
        (lambda: ledger_scored(loss_fn=lambda module, batch: None), Noting, "loss_fn says"),
    ],
)
def test_settings_that_do_not_fit(solo: Any, make: Any, module: type, message: str) -> None:
    net = solo.make(module)
    with pytest.raises(ValueError, match=message):
        solo.fit(net, make(), data=loader())
    assert not net.steps


def test_scoring_of_another_kind() -> None:
    with pytest.raises(TypeError, match='ScoringPass, "ledger" or "auto"'):
        ExampleSelection(TopLoss(0.5), scoring="none")  # type: ignore[arg-type]


def test_a_compiled_module(solo: Any) -> None:
    net = solo.make(Noting)
    with pytest.raises(ValueError, match=r"compiled.*rescore_every=2"):
        solo.fit(torch.compile(net, backend="eager"), ledger_scored(), data=loader())


def test_a_loss_that_training_computes_by_hand(solo: Any) -> None:
    class ByHand(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, _ = batch
            if torch.is_grad_enabled():
                return -self.net(x).log_softmax(1).gather(1, y[:, None]).mean()
            return F.cross_entropy(self.net(x), y)

    with pytest.raises(Exception, match="none could be told apart"):
        solo.fit(solo.make(ByHand), ledger_scored(), data=loader())


def test_rows_that_are_two_examples(solo: Any) -> None:
    class Soft(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    x, y, _ = rows(N)
    mixed = 0.7 * F.one_hot(y, 3) + 0.3 * F.one_hot(y.roll(1), 3)
    with pytest.raises(ValueError, match="mixup and cutmix"):
        solo.fit(solo.make(Soft), ledger_scored(), data=loader(TensorDataset(x, mixed)))

    class TwoTargets(Noting):
        """Mixed in the collate function, so that a row holds both labels."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = self.net(batch[0])
            return 0.7 * F.cross_entropy(logits, batch[1]) + 0.3 * F.cross_entropy(logits, batch[2])

    with pytest.raises(ValueError, match="mixup and cutmix"):
        solo.fit(solo.make(TwoTargets), ledger_scored(), data=loader(TensorDataset(x, y, y.roll(1))))
    solo.fit(solo.make(TwoTargets), ledger_scored(), data=loader(TensorDataset(x, y, y)))
    smooth = 0.9 * F.one_hot(y, 3) + 0.1 / 3
    solo.fit(solo.make(Soft), ledger_scored(), data=loader(TensorDataset(x, smooth)))


# ---------------------------------------------------------------------- where scores come from


def test_no_scoring_pass_at_all(solo: Any) -> None:
    net, callback, data = solo.make(Noting), ledger_scored(), Counted()
    solo.fit(net, callback, data=loader(data, shuffle=True), max_epochs=5)
    assert callback.counters.scored == 0
    assert len(net.passes) == 6  # the check of the first batch, which looks twice where a loss is a metric
    assert [len(ids) for ids in net.steps] == [BATCH] * 5 + [3] * 20  # everything first, then k of each batch
    assert callback.counters.seen == 5 * N
    assert data.loaded == [1 + rest for rest in (callback.ledger.trained - 1).tolist()]  # nothing else was decoded


def test_what_is_loaded_when_rows_are_chosen_afterwards(solo: Any) -> None:
    data = Counted()
    solo.fit(solo.make(Noting), ledger_scored(skip_loading=False), data=loader(data), max_epochs=3)
    assert data.loaded == [3] * N


def test_examples_never_seen_come_first(solo: Any) -> None:
    net, callback = solo.make(Noting), ledger_scored(warmup=0, keep=0.5, floor=0.0)
    solo.fit(net, callback, data=loader(), max_epochs=2)
    assert trained(net) == [1] * N


def test_hard_examples_are_trained_more(solo: Any) -> None:
    """Half of the inputs show their class, the other half show nothing: those stay hard."""
    x, y, ids = rows(N)
    shown = torch.cat([4 * F.one_hot(y, 3).float(), torch.zeros(N, 2)], 1)
    x = torch.where((ids < N // 2)[:, None], shown, 0.1 * x)
    net, callback = solo.make(Noting), ledger_scored(keep=0.5)
    solo.fit(net, callback, data=loader(TensorDataset(x, y, ids), shuffle=True), max_epochs=20)
    easy, hard = sum(trained(net)[: N // 2]), sum(trained(net)[N // 2 :])
    assert hard > 1.5 * easy


@pytest.mark.parametrize("every", [2, 3])
def test_stale_scores(solo: Any, every: int) -> None:
    class Slow(Noting):
        """Notes its scores by id."""

        def __init__(self) -> None:
            super().__init__()
            self.scores = Notes()

        def note(self, ids: Any) -> None:
            if not torch.is_grad_enabled():
                self.scores.append(sorted(ids.tolist()))
            super().note(ids)

    net, callback = solo.make(Slow), SelectiveBackprop(0.25, rescore_every=every, warmup=0)
    solo.fit(net, callback, data=loader(shuffle=True), max_epochs=6)
    scored_epochs = len(range(0, 6, every))
    assert callback.counters.scored == N * scored_epochs == int(callback.ledger.scored.sum())
    assert [len(ids) for ids in net.steps] == [3] * 30  # no starvation: every epoch makes all of its steps
    assert callback.counters.seen == 6 * N


def test_stale_scores_are_those_of_the_scored_epoch(solo: Any) -> None:
    """With top losses and no training (a learning rate of 0), every epoch chooses the same rows."""
    net = solo.make(Classifier, 0.0)
    solo.fit(net, ExampleSelection(TopLoss(0.25), rescore_every=3), data=loader(), max_epochs=6)
    epochs = [net.steps[i : i + 5] for i in range(0, 30, 5)]
    assert all(epoch == epochs[0] for epoch in epochs)
    fresh = solo.make(Classifier, 0.0)
    solo.fit(fresh, ExampleSelection(TopLoss(0.25)), data=loader(), max_epochs=1)
    assert epochs[0] == fresh.steps


@pytest.mark.parametrize("age", [1, 2, 5])
def test_ages(solo: Any, age: int) -> None:
    net, callback = solo.make(Noting), SelectiveBackprop(0.25, max_age=age, warmup=1)
    ages = []

    class Looking:
        def on_train_epoch_end(self, trainer: Any, *rest: Any) -> None:
            ages.append(callback.memory.known.ages(torch.arange(N)).max().item())

    solo.fit(net, callback, solo.callback(Looking), data=loader(shuffle=True), max_epochs=8)
    assert max(ages) <= age
    assert max(ages) == min(age, 7)
    assert callback.ledger.trained.tolist() == trained(net)
    assert callback.counters.scored < 7 * N


def test_max_age_scores_only_rows_that_are_too_old(solo: Any) -> None:
    net, callback = solo.make(Noting), SelectiveBackprop(0.5, max_age=1, warmup=1)
    solo.fit(net, callback, data=loader(), max_epochs=3)
    # All trained in epoch 0, half of them in epoch 1: the others are two epochs old in epoch 2.
    assert callback.counters.scored == N // 2 + N * 0
    assert int(callback.ledger.scored.max()) == 1


def test_rows_scored_now_and_rows_remembered_rank_on_one_scale(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    asked = ExampleMemory.refreshed

    def refreshed(memory: ExampleMemory, ids: Any, rows: Any, *rest: Any) -> dict[str, Any]:
        known = asked(memory, ids, rows, *rest)
        seen.append({"some": rows is not None and 0 < len(rows) < len(ids), **known})
        return known

    monkeypatch.setattr(ExampleMemory, "refreshed", refreshed)
    solo.fit(solo.make(Noting), SelectiveBackprop(0.5, max_age=1), data=loader(shuffle=True), max_epochs=4)
    mixed = [known for known in seen if known["some"]]
    assert mixed
    for known in mixed:
        order = known["losses"].argsort()
        assert bool((known["percentiles"][order].diff() >= 0).all())


class Hardest(Selector):
    """Takes no losses."""

    def select(self, k: int, *, percentiles: Any) -> Selection:
        return Selection.of(percentiles.topk(k).indices)


@pytest.mark.parametrize(
    ("settings", "trained"),
    [({}, 2 * N), ({"skip_loading": False}, 2 * N), ({"scoring": None, "max_age": 1}, 3 * N // 2)],
)
def test_rows_that_are_not_finite_are_looked_for_whatever_the_selector_takes(
    solo: Any, settings: dict[str, Any], trained: int
) -> None:
    class Hurt(Noting):
        def on_after_backward(self) -> None:
            for parameter in self.parameters():
                parameter.grad.nan_to_num_(0, 0, 0)

    x, y, ids = rows(N)
    x[7] = torch.nan
    settings = {"scoring": "ledger", "nonfinite": "drop", **settings}
    net, callback = solo.make(Hurt), ExampleSelection(Hardest(0.5), **settings)
    solo.fit(net, callback, data=loader(TensorDataset(x, y, ids)), max_epochs=3)
    assert callback.counters.trained == trained
    warm = N // BATCH if settings["scoring"] else 0  # batches of the first epoch, all of whose rows train
    assert 7 in {i for ids in net.steps[:warm] for i in ids} or not warm
    assert all(7 not in ids for ids in net.steps[warm:])


# ---------------------------------------------------------------------- nothing else changes


METRICS: dict[str, Any] = {
    "detached": lambda logits, y: F.cross_entropy(logits.detach(), y),
    "unreduced": lambda logits, y: F.mse_loss(logits.detach()[:, 0], y.float(), reduction="none"),
    "without gradients": torch.no_grad()(lambda logits, y: F.cross_entropy(logits, y)),
    "of another network": lambda logits, y: F.cross_entropy(logits.detach() * -9, y),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_a_loss_function_that_is_a_metric_has_no_part_in_the_loss(solo: Any, metric: str, first: bool) -> None:
    class Measuring(Noting):
        metric: Any = None

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = self.net(batch[0])
            if self.metric and first:
                self.log("before", self.metric(logits, batch[1]).mean())
            loss = F.cross_entropy(logits, batch[1])
            if self.metric and not first:
                self.log("after", self.metric(logits, batch[1]).mean())
            return loss

    found = []
    for function in (None, METRICS[metric]):
        net, callback = solo.make(Measuring), SelectiveBackprop(0.5)
        net.metric = function
        solo.fit(net, callback, data=loader(shuffle=True), max_epochs=3)
        found.append([net.state_dict(), callback.ledger.state_dict()])
    assert differences(*found) == []


def test_weights_do_not_weigh_metrics(solo: Any) -> None:
    found: list[tuple[float, float, float]] = []

    class Measuring(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits, y = self.net(batch[0]), batch[1]
            loss, metric = F.cross_entropy(logits, y), F.cross_entropy(logits.detach(), y)
            by_hand = -logits.detach().log_softmax(1)[torch.arange(len(y)), y].mean()
            if logits.requires_grad:  # it is trained
                found.append((metric.item(), by_hand.item(), loss.item()))
            return loss

    solo.fit(solo.make(Measuring), ExampleSelection(InfoBatch(0.9, 0.0)), data=loader(), max_epochs=3)
    assert [metric for metric, *_ in found] == pytest.approx([by_hand for _, by_hand, _ in found])
    assert any(abs(loss - by_hand) > 0.1 for _, by_hand, loss in found)  # there were weights


def test_who_ranks_the_whole_data_set_goes_by_what_is_remembered(solo: Any) -> None:
    callback = ExampleSelection(RankSampling(0.5, seed=0))
    solo.fit(solo.make(Noting), callback, data=loader(), max_epochs=3)
    assert (callback.counters.scored, callback.counters.trained) == (0, 2 * N)
    assert not ExampleSelection(RankSampling(0.5, within="batch")).plan.free


MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum over len": lambda losses: losses.sum() / len(losses),
    "first dimension": lambda losses: losses.mean(dim=0),
    "index": lambda losses: losses[torch.arange(len(losses))].mean(),
    "logged, too": lambda losses: (torch.exp(losses.mean()), losses.sum() / len(losses))[1],
}


@pytest.mark.parametrize("name", MEANS)
def test_losses_are_remembered_without_their_weights(solo: Any, name: str) -> None:
    """However the same mean is written, the same losses are known of the same training."""

    class Reducing(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.mean(F.cross_entropy(self.net(batch[0]), batch[1], reduction="none"))

    found = []
    for mean in (Tensor.mean, MEANS[name]):
        net, callback = solo.make(Reducing), ExampleSelection(InfoBatch(0.5, 0.0, seed=0))
        net.mean = mean
        solo.fit(net, callback, data=loader(), max_epochs=3)
        assert callback.counters.trained < callback.counters.seen  # some are left out, others have weights
        found.append(callback.ledger.loss)
    assert found[0].min() > 0
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_overhearing_leaves_training_as_it_is(solo: Any, settings: dict[str, Any]) -> None:
    class Deep(Noting):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, _ = batch
            logits = self.net(x)
            total = F.cross_entropy(logits, y, reduction="sum")
            total /= len(x)
            return total + 0.1 * F.mse_loss(logits, torch.zeros_like(logits), reduction="none").mean()

    found = []
    for callbacks in ([], [ExampleSelection(KeepAll(), scoring="ledger")]):
        net = solo.make(Deep)
        trainer = solo.fit(net, *callbacks, data=loader(shuffle=True), max_epochs=3, **settings)
        found.append([net.state_dict(), trainer.optimizers[0].state_dict(), torch.get_rng_state()])
    assert differences(*found) == []


@pytest.mark.parametrize("form", ["ledger", "stale", "blind"])
def test_workers_change_nothing(solo: Any, form: str) -> None:
    steps = []
    for workers in (0, 1, 2):
        net = solo.make(Noting)
        solo.fit(net, FORMS[form](), data=loader(shuffle=True, num_workers=workers), max_epochs=4)
        steps.append(list(net.steps))
    assert steps[0] == steps[1] == steps[2]


def test_run_seeds_choose_differently(solo: Any) -> None:
    steps = []
    for seed in (1, 2, 1):
        net = solo.make(Noting)
        torch.manual_seed(seed)
        solo.fit(net, ledger_scored(), data=loader(), max_epochs=3)
        steps.append(list(net.steps))
    assert steps[0] == steps[2] != steps[1]


def test_lengths_are_those_of_plain_training(solo: Any) -> None:
    class Lengths:
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            loop = trainer.fit_loop.epoch_loop
            self.seen.append(
                (trainer.num_training_batches, loop.batch_idx, trainer.global_step, trainer.estimated_stepping_batches)
            )

    found = []
    for callbacks in ([], [ledger_scored()]):
        lengths = solo.callback(Lengths)
        solo.fit(solo.make(Noting), *callbacks, lengths, data=loader(), max_epochs=3)
        found.append(lengths.seen)
    assert found[0] == found[1]


def test_batch_norm_gets_two_rows(solo: Any) -> None:
    class Normed(Noting):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    net = solo.make(Normed)
    solo.fit(net, ledger_scored(keep=0.01, floor=0.0), data=loader(batch_size=6), max_epochs=2)
    assert [len(ids) for ids in net.steps[10:]] == [2] * 10


def test_a_second_fit_of_the_same_trainer_goes_on(solo: Any) -> None:
    net, callback, data = solo.make(Noting), ledger_scored(), loader(shuffle=True)
    trainer = solo.fit(net, callback, data=data, max_epochs=2)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(net, data)
    assert callback.ledger.trained.tolist() == trained(net)
    assert int(callback.ledger.seen.max()) == 4
    solo.fit(net, callback, data=data, max_epochs=1)  # another one begins anew
    assert int(callback.ledger.seen.max()) == 1


def test_the_callback_can_be_copied_before_a_fit() -> None:
    callback = copy.deepcopy(ledger_scored())
    assert callback.ledger is None
    assert isinstance(callback.selector, LossPercentile)


def test_classes_are_known_where_the_loss_tells_them(solo: Any) -> None:
    net, callback = solo.make(Noting), ExampleSelection(Stratified(TopLoss(0.5)), scoring="ledger")
    solo.fit(net, callback, data=loader(), max_epochs=3)
    labels = rows(N)[1]
    assert callback.memory.labels.tolist() == labels.tolist()
    for ids in net.steps[5:]:
        first = ids[0] // BATCH * BATCH
        for label in range(3):
            present = int((labels[first : first + BATCH] == label).sum())
            assert abs(int((labels[ids] == label).sum()) - present / 2) < 1  # its share, rounded


def test_random_sampler_is_not_asked_twice(solo: Any) -> None:
    """The tap draws nothing: the order of the examples is that of plain training."""
    orders = []
    for callbacks in ([], [ExampleSelection(KeepAll(), ledger=True)]):
        net = solo.make(Noting)
        data = Counted()
        sampler = RandomSampler(data, generator=torch.Generator().manual_seed(3))
        solo.fit(net, *callbacks, data=loader(data, sampler=sampler), max_epochs=2)
        orders.append(list(net.steps))
    assert orders[0] == orders[1]


def test_refilling_goes_on_while_infobatch_anneals(solo: Any) -> None:
    """Rows that wait have weights, those that come then have none."""
    net, callback = solo.make(Noting), ExampleSelection(InfoBatch(anneal=0.5, seed=0), refill=True)
    solo.fit(net, callback, data=loader(shuffle=True), max_epochs=8)
    assert {len(ids) for ids in net.steps} == {BATCH}
    assert callback.ledger.trained.tolist() == trained(net)
    assert 5 * 8 > len(net.steps) > 5 * 6
