"""Without refill: exactly k rows of every batch, and nothing else changes."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.scoring import CaptureError, ScoringPass
from litselect.selectors import KeepAll, LossPercentile, RandomSubset, Scheduled, Selection, Selector, TopLoss
from tests.callbacks.kit import CLASSES, WIDTH, Classifier, differences, loader, rows, weights


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


class Oracle:
    """Before each batch is selected from, works out which rows have the highest losses."""

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep, self.expected = keep, []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            losses = pl_module.losses(batch)
        k = max(1, round(self.keep * len(losses)))
        self.expected.append(batch[2][losses.topk(k).indices.sort().values].tolist())


@pytest.mark.parametrize("module", [Classifier, ByHand])
def test_the_step_sees_the_chosen_rows_of_the_batch(kit: Any, module: Any) -> None:
    net, oracle = kit.make(module), kit.callback(Oracle, 1 / 3)
    trainer = kit.fit(
        net, ExampleSelection(TopLoss(keep=1 / 3)), oracle, data=loader(40, 12, shuffle=True), max_epochs=3
    )
    assert net.steps == oracle.expected
    assert [len(ids) for ids in net.steps] == [4, 4, 4, 1] * 3  # the last batch has 4 rows
    assert trainer.global_step == 12


def test_rows_come_with_their_content(solo: Any) -> None:
    class Compares(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, ids = batch
            if torch.is_grad_enabled():
                everything = rows(32)
                assert torch.equal(x, everything[0][ids])
                assert torch.equal(y, everything[1][ids])
            return super().training_step(batch, batch_idx)

    net = solo.make(Compares)
    solo.fit(net, ExampleSelection(RandomSubset(keep=0.5)), data=loader(32, 8, shuffle=True))
    assert [len(ids) for ids in net.steps] == [4] * 4


def test_the_update_is_that_of_training_on_the_chosen_rows(solo: Any) -> None:
    net, by_hand = solo.make(Classifier), solo.make(Classifier)
    solo.fit(net, ExampleSelection(TopLoss(keep=0.25)), data=loader(32, 8))
    optimizer = by_hand.configure_optimizers()
    x, y, _ = rows(32)
    for ids in net.steps:
        optimizer.zero_grad()
        F.cross_entropy(by_hand.net(x[ids]), y[ids]).backward()
        optimizer.step()
    assert differences(weights(net), weights(by_hand)) == []


@pytest.mark.filterwarnings("ignore:.* leaves nothing out")
def test_batches_of_one_row(solo: Any) -> None:
    net = solo.make(Classifier)
    solo.fit(net, SelectiveBackprop(keep=0.1, warmup=0), data=loader(5, 1))
    assert net.steps == [[0], [1], [2], [3], [4]]


class Normalised(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES))


@pytest.mark.parametrize("selector", [TopLoss(keep=0.1), RandomSubset(keep=0.1), LossPercentile(0.1)])
def test_batch_norm_gets_two_rows(solo: Any, selector: Any) -> None:
    net = solo.make(Normalised)
    solo.fit(net, ExampleSelection(selector), data=loader(16, 8))
    assert [len(ids) for ids in net.steps] == [2, 2]
    plain = solo.make(Classifier)
    solo.fit(plain, ExampleSelection(type(selector)(0.1)), data=loader(16, 8))
    assert [len(ids) for ids in plain.steps] == [1, 1]


# ---------------------------------------------------------------------- the preset


def test_selective_backprop_warms_up_for_an_epoch_at_most_then_trains_k_rows_to_the_end(kit: Any) -> None:
    def sizes(epochs: int, **settings: Any) -> list[int]:
        net = kit.make(Classifier)
        kit.fit(net, SelectiveBackprop(keep=0.25, **settings), data=loader(32, 8), max_epochs=epochs)
        return [len(ids) for ids in net.steps]

    for epochs in (5, 2):  # of 4 batches
        assert sizes(epochs) == [8] * 4 + [2] * 4 * (epochs - 1)
    assert sizes(12) == [2] * 4 * 12
    for epochs, warm in ((12, 4), (5, 2), (2, 1)):  # an epoch, or a tenth of training
        assert sizes(epochs, scoring=ScoringPass()) == [8] * warm + [2] * (4 * epochs - warm)


def test_its_rule_is_the_papers(solo: Any) -> None:
    callback = SelectiveBackprop(keep=1 / 3)
    assert callback.selector.beta == pytest.approx(2)
    assert callback.selector.fixed_size
    assert callback.selector.history == 1024
    assert not SelectiveBackprop(keep=1 / 3, refill=True).selector.fixed_size
    assert SelectiveBackprop(beta=1).selector.keep == 0.5


def test_hard_rows_are_drawn_more_often(solo: Any) -> None:
    """Two of every eight rows have the higher losses; chance would draw them for a quarter of what is trained."""

    def losses(module: Any, batch: Any) -> torch.Tensor:
        return torch.where(batch[2] % 8 < 2, 2.0, 1.0) + 0.001 * batch[2]

    net = solo.make(Classifier)
    solo.fit(net, SelectiveBackprop(keep=0.25, warmup=0, seed=0, loss_fn=losses), data=loader(64, 8), max_epochs=10)
    drawn = torch.tensor([i for step in net.steps for i in step])
    assert len(drawn) == 2 * 80
    assert 0.55 < (drawn % 8 < 2).float().mean() < 0.9


# ---------------------------------------------------------------------- steps of all kinds


def test_a_step_without_batch_idx(kit: Any) -> None:
    class Brief(Classifier):
        def training_step(self, batch: Any) -> Any:
            return super().training_step(batch, 0)

    net = kit.make(Brief)
    kit.fit(net, ExampleSelection(TopLoss(keep=0.5)))
    assert [len(ids) for ids in net.steps] == [4] * 4


def test_a_step_that_returns_a_dict(solo: Any) -> None:
    class Verbose(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "rows": len(batch[0])}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert outputs["rows"] == 4
            assert len(batch[0]) == 8  # hooks see the candidates

    net = solo.make(Verbose)
    solo.fit(net, ExampleSelection(TopLoss(keep=0.5)))
    assert [len(ids) for ids in net.steps] == [4] * 4


@pytest.mark.parametrize("selector", [TopLoss(keep=0.5), RandomSubset(keep=0.5)])
@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_a_step_that_declines_a_batch(solo: Any, selector: Any) -> None:
    class Picky(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == 1 else loss

    net, plain = solo.make(Picky), solo.make(Picky)
    solo.fit(net, ExampleSelection(selector), data=loader(24, 8))
    solo.fit(plain, data=loader(24, 8))
    assert [len(ids) for ids in plain.steps] == [8] * 3
    assert [len(ids) for ids in net.steps[::2]] == [4, 4]


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_a_step_that_declines_is_no_fault_of_the_weights(solo: Any) -> None:
    class Declines(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    class Doubled(Selector):
        def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
            return Selection(torch.arange(k), torch.full((k,), 2.0))

    net = solo.make(Declines)
    solo.fit(net, ExampleSelection(Doubled(keep=0.5)), data=loader(24, 8))
    assert len(net.steps) == 2


def test_lbfgs_scores_once_a_step(solo: Any) -> None:
    class SecondOrder(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)

    net = solo.make(SecondOrder)
    callback = ExampleSelection(TopLoss(keep=0.5))
    solo.fit(net, callback, data=loader(24, 8))
    assert net.passes == [8, 8, 8, 8] + [8] * 2  # the first batch three times more, to check the capture
    assert callback.counters.scored == 24
    assert len(net.steps) > 3 * 3  # the closure is called several times a step
    assert len({tuple(ids) for ids in net.steps}) == 3  # always with the same rows
    assert callback.counters.trained == 12


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.01},
        {"precision": "bf16-mixed"},
        {"limit_train_batches": 3},
    ],
    ids=str,
)
def test_settings_of_the_trainer(solo: Any, settings: Any) -> None:
    net, plain = solo.make(Classifier), solo.make(Classifier)
    callback = ExampleSelection(TopLoss(keep=0.5))
    trainer = solo.fit(net, callback, **settings)
    batches = settings.get("limit_train_batches", 4)
    assert [len(ids) for ids in net.steps] == [4] * batches
    assert (
        trainer.global_step
        == callback.counters.steps
        == math.ceil(batches / settings.get("accumulate_grad_batches", 1))
    )
    with_all, full = solo.make(Classifier), ExampleSelection(TopLoss(keep=1.0))
    solo.fit(with_all, full, **settings)
    solo.fit(plain, **settings)
    assert differences(weights(with_all), weights(plain)) == []


def test_evaluation_is_untouched(kit: Any) -> None:
    class Evaluates(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.sizes.append(("validate", len(batch[0])))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.sizes.append(("test", len(batch[0])))

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch[2]

    net, callback = kit.make(Evaluates), ExampleSelection(TopLoss(keep=0.25))
    net.sizes = []
    trainer = kit.trainer(callback)
    trainer.fit(net, loader(16, 8), loader(10, 8))
    trainer.validate(net, loader(10, 8), verbose=False)
    trainer.test(net, loader(10, 8), verbose=False)
    assert net.sizes == [("validate", 8), ("validate", 2)] * 3 + [("test", 8), ("test", 2)]  # one of them sanity
    assert torch.cat(trainer.predict(net, loader(10, 8))).tolist() == list(range(10))
    assert callback.counters.seen == 16


# ---------------------------------------------------------------------- self.log weighs by the rows that are trained


class LogsIds(Classifier):
    """Logs the mean id of a step's rows: the mean over the epoch is right only if each step is weighed by its rows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("id", batch[2].float().mean(), on_step=False, on_epoch=True)
        if torch.is_grad_enabled():
            results = self.trainer._results
            assert results.batch is batch
        return loss


def mean_id(kit: Any) -> tuple[float, float]:
    """What was logged for an epoch of steps of 6, 6 and 1 rows of 8, 8 and 2, and what is right."""
    net = kit.make(LogsIds)
    trainer = kit.fit(net, ExampleSelection(TopLoss(keep=0.75)), data=loader(17, 8))
    ids = [i for step in net.steps for i in step]
    assert [len(step) for step in net.steps] == [6, 6, 1]
    return float(trainer.callback_metrics["id"]), sum(ids) / len(ids)


def test_logged_means_weigh_the_chosen_rows(kit: Any) -> None:
    logged, right = mean_id(kit)
    assert logged == pytest.approx(right)


def test_logged_means_would_be_wrong_otherwise(solo: Any, monkeypatch: Any) -> None:
    """The control: with the candidates as the batch, the weights would be 8, 8 and 1."""
    from litselect.callbacks import selection_session

    original = selection_session.SelectionSession._choose

    def forgetful(self: Any, batch: Any, batch_idx: int) -> bool:
        steps = original(self, batch, batch_idx)
        self.trainer._results.batch, self.trainer._results.batch_size = batch, None
        return steps

    monkeypatch.setattr(selection_session.SelectionSession, "_choose", forgetful)
    with pytest.raises(AssertionError):
        mean_id(solo)


# ---------------------------------------------------------------------- a number of rows that chance decides


class Lucky(Selector):
    """All rows, or none, in turn."""

    probabilistic = True

    def __init__(self, counts: list[int]) -> None:
        super().__init__(keep=0.5)
        self.counts = iter(counts)

    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        return Selection(torch.arange(next(self.counts)))


def test_a_batch_of_which_nothing_is_chosen_makes_no_step(kit: Any) -> None:
    net, callback = kit.make(Classifier), ExampleSelection(Lucky([3, 0, 8, 0]))
    trainer = kit.fit(net, callback)
    assert [len(ids) for ids in net.steps] == [3, 8]
    assert trainer.global_step == callback.counters.steps == 2
    assert (callback.counters.seen, callback.counters.trained) == (32, 11)


def test_nor_one_of_which_batch_norm_could_not_live(solo: Any) -> None:
    net = solo.make(Normalised)
    solo.fit(net, ExampleSelection(Lucky([3, 1, 0, 2])))
    assert [len(ids) for ids in net.steps] == [3, 2]


# ---------------------------------------------------------------------- weights


class Weighted(Selector):
    """The k hardest rows with weights 1, 2, 3, ..."""

    def select(self, k: int, *, losses: torch.Tensor) -> Selection:
        return Selection.of(losses.sort(descending=True, stable=True).indices[:k], torch.arange(1.0, k + 1))


class Uniform(Selector):
    """All rows with weight 1."""

    def select(self, k: int, *, losses: torch.Tensor) -> Selection:
        return Selection(torch.arange(len(losses)), torch.ones(len(losses)))


@pytest.mark.parametrize("module", [Classifier, ByHand])
def test_weights_change_the_gradient(kit: Any, module: Any) -> None:
    net, by_hand = kit.make(module), kit.make(Classifier)
    kit.fit(net, ExampleSelection(Weighted(keep=0.5)), data=loader(16, 8))
    optimizer = by_hand.configure_optimizers()
    x, y, ids = rows(16)
    for part in (slice(0, 8), slice(8, 16)):
        losses = by_hand.losses((x[part], y[part], ids[part]))
        hardest = losses.detach().sort(descending=True, stable=True).indices[:4]
        optimizer.zero_grad()
        (losses[hardest] * torch.arange(1.0, 5)).mean().backward()
        optimizer.step()
    for name, value in weights(net).items():
        torch.testing.assert_close(value, weights(by_hand)[name])
    unweighted = kit.make(module)
    kit.fit(unweighted, ExampleSelection(TopLoss(keep=0.5)), data=loader(16, 8))
    assert differences(weights(net), weights(unweighted)) != []


def test_weights_of_one_are_plain_training(solo: Any) -> None:
    net, plain = solo.make(Classifier), solo.make(Classifier)
    solo.fit(net, ExampleSelection(Uniform()))
    solo.fit(plain)
    for name, value in weights(net).items():
        torch.testing.assert_close(value, weights(plain)[name])


class OwnLoss(Classifier):
    """A loss that torch has no part in."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        logits = self.net(x)
        return (logits.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)).mean()

    def example_losses(self, batch: Any) -> torch.Tensor:
        return self.losses(batch)


def test_weights_are_refused_where_nothing_can_be_weighed(kit: Any) -> None:
    net = kit.make(OwnLoss)
    before = weights(net)
    with pytest.raises(CaptureError, match=r"Weighted\(.*no loss function of torch.*or use a selector without weights"):
        kit.fit(net, ExampleSelection(Weighted(keep=0.5)))
    assert differences(weights(net), before) == []
    kit.fit(net, ExampleSelection(TopLoss(keep=0.5)))  # as the message says


# ---------------------------------------------------------------------- sources of the losses


def test_losses_from_a_function(kit: Any) -> None:
    class Own(OwnLoss):
        example_losses = None

    net, oracle = kit.make(Own), kit.callback(Oracle, 0.5)
    callback = ExampleSelection(TopLoss(keep=0.5), loss_fn=lambda module, batch: module.losses(batch))
    kit.fit(net, callback, oracle)
    assert net.steps == oracle.expected


def test_losses_from_the_module(solo: Any) -> None:
    class Reversed(Classifier):
        def example_losses(self, batch: Any) -> torch.Tensor:
            return -self.losses(batch)

    net, oracle = solo.make(Reversed), solo.callback(Oracle, 0.5)
    solo.fit(net, ExampleSelection(TopLoss(keep=0.5)), oracle)
    assert [set(step) & set(expected) for step, expected in zip(net.steps, oracle.expected, strict=True)] == [set()] * 4


def test_keep_all_hands_over_the_very_batch(solo: Any) -> None:
    class Same(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.batch_of_hook = batch

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert batch is self.batch_of_hook
            return super().training_step(batch, batch_idx)

    solo.fit(solo.make(Same), ExampleSelection(KeepAll()))


SMALL: Any = {
    "one row": (Classifier, lambda: SelectiveBackprop(keep=0.5, scoring=ScoringPass(), warmup=0), 1),
    "any number": (Classifier, lambda: ExampleSelection(LossPercentile(0.2, fixed_size=False)), 1),
    "batch statistics": (Normalised, lambda: ExampleSelection(TopLoss(keep=0.5)), 2),
}


@pytest.mark.parametrize("name", SMALL)
def test_batches_of_which_nothing_can_be_left_out_are_warned_of(solo: Any, name: str) -> None:
    module, make, size = SMALL[name]
    with pytest.warns(UserWarning, match=rf"leaves nothing out of a batch of {size} row"):
        solo.fit(solo.make(module), make(), data=loader(8, size))
    solo.fit(solo.make(module), make(), data=loader(8, 4))  # a warning is an error


def test_batches_that_only_seem_so_small_are_not_warned_of(solo: Any) -> None:
    """Ready-made ones, which a loader counts as rows; a share that shrinks. A warning is an error."""
    made = DataLoader([rows(8), rows(8)], batch_size=1, collate_fn=lambda batches: batches[0])
    solo.fit(solo.make(Classifier), ExampleSelection(TopLoss(keep=0.5)), data=made)
    shrinking = Scheduled(TopLoss(keep=0.5), keep=(0.95, 0.25))
    solo.fit(solo.make(Classifier), ExampleSelection(shrinking), data=loader(16, 8), max_epochs=4)
