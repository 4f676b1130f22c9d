"""Where a ledger meets what else happens in a Trainer."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset, default_collate

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.selectors import HideLearned, InfoBatch, KeepAll, LossPercentile, Mixture, Stratified, TopLoss
from tests.callbacks.kit import Classifier, Validated, rows
from tests.callbacks.test_ledger import BATCH, Counted, N, Noting, ledger_scored, loader, trained

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '\\w+_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Selection by .* never begins"),
]


# ---------------------------------------------------------------------- whoever else reads


def test_validation_on_the_same_loader_sees_everything(solo: Any) -> None:
    seen: list[int] = []

    class Watching(Validated):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen.append(len(batch[0]))

    data = loader()
    solo.trainer(ledger_scored(), max_epochs=3, num_sanity_val_steps=0).fit(solo.make(Watching), data, data)
    assert seen == [BATCH] * 15


def test_readers_of_the_training_loader_see_everything(solo: Any) -> None:
    seen: list[int] = []

    class Reading:
        def on_train_epoch_end(self, trainer: Any, *rest: Any) -> None:
            seen.append(sum(len(batch[0]) for batch in trainer.train_dataloader))

    solo.fit(solo.make(Noting), ledger_scored(), solo.callback(Reading), data=loader(), max_epochs=3)
    assert seen == [N] * 3


def test_a_tuner_leaves_no_tap(solo: Any) -> None:
    from pytorch_lightning.tuner import Tuner

    data, trainer, net = loader(shuffle=True), solo.trainer(ledger_scored(warmup=0), max_epochs=2), solo.make(Noting)
    Tuner(trainer).lr_find(net, data, num_training=3, update_attr=False)
    assert "process_dataloader" not in vars(trainer.strategy)
    plain = solo.make(Noting)
    solo.fit(plain, data=data)
    assert {len(ids) for ids in plain.steps} == {BATCH}


# ---------------------------------------------------------------------- batches that don't come


@pytest.mark.parametrize("nothing", [0, 2, 4])
def test_a_batch_of_nothing_moves_no_id(solo: Any, nothing: int) -> None:
    """A collate function may answer None, and Lightning goes on with the next batch."""
    calls = []

    def collate(examples: Any) -> Any:
        calls.append(0)
        return None if len(calls) % 5 == nothing else default_collate(examples)

    net, callback = solo.make(Noting), ExampleSelection(KeepAll(), scoring="ledger")
    with pytest.warns(UserWarning, match="train_dataloader.*yielded None"):
        solo.fit(net, callback, data=loader(shuffle=True, collate_fn=collate), max_epochs=3)
    assert callback.ledger.trained.tolist() == trained(net)
    newest: dict[int, float] = {}
    for losses in net.noted:
        newest |= losses
    assert {i: float(callback.ledger.loss[i]) for i in newest} == pytest.approx(newest, rel=1e-5)


# ---------------------------------------------------------------------- losses that are none


def poisoned(*bad: int, **settings: Any) -> Any:
    x, y, ids = rows(N)
    x[list(bad or [7])] = torch.nan
    return loader(TensorDataset(x, y, ids), **settings)


def test_a_loss_that_becomes_nan_stops_training_before_the_step(solo: Any) -> None:
    class Failing(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            x, y, _ = batch
            late = self.trainer.current_epoch > 0 and torch.is_grad_enabled()
            return F.cross_entropy(self.net(x) * (torch.nan if late else 1), y) if late else loss

    net = solo.make(Failing)
    with pytest.raises(FloatingPointError, match="NaN or inf"):
        solo.fit(net, ledger_scored(floor=0.0), data=loader(), max_epochs=3)
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("skip", [None, False])
def test_stale_nan_is_dropped_as_the_policy_says(solo: Any, skip: Any) -> None:
    net = solo.make(Noting)
    callback = SelectiveBackprop(0.5, rescore_every=2, warmup=0, nonfinite="drop", skip_loading=skip)
    solo.fit(net, callback, data=poisoned(), max_epochs=4)
    assert all(7 not in ids for ids in net.steps)
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("skip", [None, False])
def test_a_choice_of_too_few_rows_is_not_topped_up_by_dropped_ones(solo: Any, skip: Any) -> None:
    net = solo.make(Noting)
    law = LossPercentile(0.5, fixed_size=False, seed=0)
    callback = ExampleSelection(law, rescore_every=2, warmup=0, nonfinite="drop", skip_loading=skip)
    solo.fit(net, callback, data=poisoned(batch_size=2), max_epochs=8)
    assert all(7 not in ids for ids in net.steps)
    assert any(6 in ids for ids in net.steps)  # which shares its batches
    assert all(p.isfinite().all() for p in net.parameters())


class Normed(Noting):
    """Batch statistics need two rows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))


@pytest.mark.parametrize("settings", [{}, {"rescore_every": 2}, {"rescore_every": 2, "skip_loading": False}])
def test_a_batch_with_too_few_rows_left_is_skipped(solo: Any, settings: dict[str, Any]) -> None:
    net, callback = solo.make(Normed), ExampleSelection(TopLoss(0.5), nonfinite="drop", warmup=0, **settings)
    solo.fit(net, callback, data=poisoned(*range(8), batch_size=9), max_epochs=2)
    found = [set(ids) for ids in net.steps]
    assert all(not ids & set(range(9)) for ids in found)
    assert [len(ids) for ids in found] == [4] * 5 + [3] + [4] * 5 + [3]


def test_an_infinite_loss_does_not_raise_the_mean(solo: Any) -> None:
    class Hopeless(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, ids = batch
            self.note(ids)
            losses = F.cross_entropy(self.net(x), y, reduction="none")
            return torch.where(ids == 7, losses * torch.inf, losses).mean()

        def on_after_backward(self) -> None:
            for parameter in self.parameters():
                parameter.grad.nan_to_num_(0, 0, 0)

    net, law = solo.make(Hopeless), InfoBatch(0.9, 0.0, seed=0)
    callback = ExampleSelection(law, nonfinite="drop")
    solo.fit(net, callback, data=loader(), max_epochs=3)
    assert torch.isinf(callback.ledger.loss[7])
    assert all(7 not in ids for ids in net.steps[5:])
    assert callback.memory.known.mean_loss < 5
    assert sum(len(ids) for ids in net.steps[5:]) < 1.5 * N  # of twice N


def test_the_learning_rate_is_raised_whatever_is_dropped(solo: Any) -> None:
    class Hurt(Noting):
        def on_after_backward(self) -> None:
            for parameter in self.parameters():
                parameter.grad.nan_to_num_(0, 0, 0)

    callback = ExampleSelection(HideLearned(), refill=True, nonfinite="drop")
    solo.fit(solo.make(Hurt), callback, data=poisoned(), max_epochs=3)
    assert callback.ledger.loss[7].isnan()
    assert callback.memory.learning_rate_factor >= N / (N - 1)


# ---------------------------------------------------------------------- what is heard


def test_losses_are_not_scaled_under_manual_optimization(solo: Any) -> None:
    from pytorch_lightning.plugins.precision import MixedPrecision

    class ByHand(Noting):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    net, callback = solo.make(ByHand), ledger_scored()
    solo.fit(net, callback, data=loader(), max_epochs=2, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
    assert "manual_backward" not in vars(net)
    assert 0 < float(callback.ledger.loss.max()) < 50


def test_rows_that_are_mixed_in_training_alone(solo: Any) -> None:
    class Mixing(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, _ = batch
            if not self.training:
                return F.cross_entropy(self.net(x), y)
            other = torch.arange(len(x)).flip(0)
            logits = self.net(0.5 * x + 0.5 * x[other])
            return 0.5 * F.cross_entropy(logits, y) + 0.5 * F.cross_entropy(logits, y[other])

    with pytest.raises(ValueError, match="mixup and cutmix"):
        solo.fit(solo.make(Mixing), ledger_scored(), data=loader())


def test_mixed_and_smoothed_targets(solo: Any) -> None:
    class Soft(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    x, y, _ = rows(N)
    mixed = 0.9 * (0.7 * F.one_hot(y, 3) + 0.3 * F.one_hot((y + 1) % 3, 3)) + 0.1 / 3
    with pytest.raises(ValueError, match="mixup and cutmix"):
        solo.fit(solo.make(Soft), ledger_scored(), data=loader(TensorDataset(x, mixed)))


def test_a_ledger_beside_a_selector_that_looks_at_nothing(solo: Any) -> None:
    net, callback = solo.make(Noting), ExampleSelection(KeepAll(), ledger=True)
    solo.fit(net, callback, data=loader(), max_epochs=2)
    assert callback.ledger.loss.isfinite().all()
    assert callback.counters.scored == 0


# ---------------------------------------------------------------------- how far training is


def test_limits_count(solo: Any) -> None:
    """Fifty batches in the sampler, of which five are an epoch."""
    settings = {"limit_train_batches": 5, "max_steps": 50, "max_epochs": -1}
    net = solo.make(Noting)
    solo.fit(net, ExampleSelection(InfoBatch(seed=0)), data=loader(Counted(N * 10)), **settings)
    assert min(len(ids) for ids in net.steps[5:40]) < BATCH  # it prunes until it anneals
    assert {len(ids) for ids in net.steps[44:]} == {BATCH}
    net = solo.make(Noting)
    callback = ExampleSelection(InfoBatch(seed=0), warmup=0, warmup_steps=20)
    solo.fit(net, callback, data=loader(Counted(N * 10)), **settings)
    assert {len(ids) for ids in net.steps[:20]} == {BATCH}
    assert min(len(ids) for ids in net.steps[20:40]) < BATCH


# ---------------------------------------------------------------------- samplers and data sets


def test_indices_of_another_kind(solo: Any) -> None:
    class Pairs:
        """Multi-scale training: an index and a size."""

        def __iter__(self) -> Any:
            yield [(i, 8) for i in range(BATCH)]

        def __len__(self) -> int:
            return 1

    class Paired(Counted):
        def __getitem__(self, i: Any) -> Any:
            return super().__getitem__(i[0])

    with pytest.raises(ValueError, match=r"integers that a batch sampler sends for.*ids=lambda"):
        solo.fit(solo.make(Noting), ledger_scored(), data=DataLoader(Paired(), batch_sampler=Pairs()))


def test_the_data_set_gets_the_indices_that_the_sampler_sends(solo: Any) -> None:
    class Items(Counted):
        def __getitem__(self, i: Any) -> Any:
            return super().__getitem__(i.item())  # of a tensor, as this sampler sends them

    net, callback = solo.make(Noting), ledger_scored()
    solo.fit(net, callback, data=loader(Items(), sampler=SubsetRandomSampler(torch.arange(N))), max_epochs=3)
    assert callback.ledger.trained.tolist() == trained(net)


def test_a_batch_sampler_without_a_length(solo: Any) -> None:
    class Endless:
        def __iter__(self) -> Any:
            return iter(torch.arange(N).view(-1, BATCH).tolist())

    net, callback = solo.make(Noting), ledger_scored()
    solo.fit(net, callback, data=DataLoader(Counted(), batch_sampler=Endless()), max_epochs=3)
    assert callback.ledger.trained.tolist() == trained(net)


def test_a_data_set_that_grows(solo: Any) -> None:
    class Growing(Noting):
        def train_dataloader(self) -> Any:
            return loader(Counted(BATCH * (1 + self.trainer.current_epoch)))

    net, callback = solo.make(Growing), ledger_scored()
    trainer = solo.trainer(callback, max_epochs=5, reload_dataloaders_every_n_epochs=1)
    trainer.fit(net)
    assert callback.ledger.size == N
    assert callback.ledger.trained.tolist() == trained(net)


class Waxing(Counted):
    """Tells of more and more of its examples."""

    told = BATCH

    def __len__(self) -> int:
        return self.told


@pytest.mark.parametrize("selector", [LossPercentile(0.5), Mixture(LossPercentile(0.5))])
def test_a_data_set_that_grows_where_it_is(solo: Any, selector: Any) -> None:
    class Feeding:
        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            data.told += 5

    data, net, callback = Waxing(), solo.make(Noting), ExampleSelection(selector, scoring="ledger")
    solo.fit(net, callback, solo.callback(Feeding), data=loader(data, shuffle=True, batch_size=6), max_epochs=5)
    assert callback.ledger.size == BATCH + 20
    assert callback.ledger.trained.tolist() == trained(net)[: BATCH + 20]
    assert int((callback.ledger.trained > 0).sum()) > BATCH + 5


def test_an_id_of_no_example_is_an_error(solo: Any) -> None:
    class Beyond(torch.utils.data.Sampler[int]):
        def __iter__(self) -> Any:
            return iter([*range(BATCH - 1), N + 7 if self.late else BATCH - 1])

        def __len__(self) -> int:
            return BATCH

        late = False

    class Late:
        def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
            sampler.late = trainer.current_epoch == 1

    class Endless(Counted):
        def __getitem__(self, i: int) -> Any:
            return super().__getitem__(i % N)

    sampler, callback = Beyond(), ledger_scored()
    with pytest.raises(RuntimeError, match=f"here of {N}, but the batch sampler sent for 0 to {N + 7}"):
        solo.fit(
            solo.make(Noting), solo.callback(Late), callback, data=loader(Endless(), sampler=sampler), max_epochs=3
        )


@pytest.mark.parametrize("selector", [Mixture(LossPercentile(0.5)), Stratified(LossPercentile(0.5)), HideLearned()])
def test_ids_that_come_later(solo: Any, selector: Any) -> None:
    class Stream(IterableDataset[Any]):
        epoch = 0

        def __iter__(self) -> Any:
            self.epoch += 1
            return iter(list(zip(*rows(BATCH * self.epoch), strict=True)))

    net, callback = solo.make(Noting), ExampleSelection(selector, scoring="ledger", ids=lambda batch: batch[2])
    solo.fit(net, callback, data=loader(Stream(), batch_size=BATCH // 2), max_epochs=4)
    assert callback.ledger.trained.tolist() == trained(net)[: 4 * BATCH]
    assert callback.memory.labels.shape == callback.ledger.loss.shape


def test_examples_that_a_sampler_leaves_out_give_no_alarm(solo: Any) -> None:
    data = loader(Counted(10 * N), sampler=SubsetRandomSampler(range(N)))
    callback = ledger_scored(keep=0.5, floor=0.3)
    solo.fit(solo.make(Classifier), callback, data=data, max_epochs=30)
    assert callback.memory.alarms._epochs == 28


# ---------------------------------------------------------------------- state


def test_the_learning_rate_factor_is_state(solo: Any) -> None:
    callback = ExampleSelection(HideLearned(fraction=0.5, confidence=0.4), refill=True)
    solo.fit(solo.make(Noting), callback, data=loader(), max_epochs=4)
    callback.memory.learning_rate_factor = 1.5
    state = callback.state_dict()
    other = ExampleSelection(HideLearned(fraction=0.5, confidence=0.4), refill=True)
    found = []

    class Resuming:
        def on_fit_start(self, *_: Any) -> None:
            other.load_state_dict(state)

        def on_train_start(self, *_: Any) -> None:
            found.append(other.memory.learning_rate_factor)

    solo.fit(solo.make(Noting), solo.callback(Resuming), other, data=loader(), max_epochs=4)
    assert found == [1.5]


def test_nothing_is_put_into_the_module_that_is_overheard(solo: Any) -> None:
    class Looked(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert not {"manual_backward", "backward"} & vars(self).keys() or not torch.is_grad_enabled()
            return super().training_step(batch, batch_idx)

    solo.fit(solo.make(Looked), ledger_scored(), data=loader(), max_epochs=2)
