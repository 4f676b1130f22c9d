"""What can't work is refused with a clear message, before it has cost a training step."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from litselect.callbacks import Budget, BudgetSchedule, ExampleSelection, SelectiveBackprop
from litselect.callbacks.nonfinite import select_finite
from litselect.scoring import CaptureError, ScoringPass
from litselect.selectors import (
    InfoBatch,
    KeepAll,
    KeepUnlearned,
    LossPercentile,
    RandomSubset,
    Scheduled,
    Selection,
    Selector,
    TopLoss,
)
from tests.callbacks.kit import CLASSES, WIDTH, Classifier, differences, loader_of, rows, weights


class Momentum(Classifier):
    """With an optimizer that moves the weights at every step, whatever the gradient."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.1)


class ByHand(Momentum):
    """Manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return {"rows": len(batch[0])}


def refused(
    kit: Any, net: Any, callback: Any, error: type[Exception], message: str, steps: int = 0, **settings: Any
) -> None:
    """Training fails with this message and the weights that `steps` steps make."""
    data = settings.pop("data", None)
    before = kit.make(type(net))
    if steps:
        kit.fit(before, data=data, max_steps=steps)
    with pytest.raises(error, match=message):
        kit.fit(net, *(callback if isinstance(callback, list) else [callback]), data=data, max_epochs=2, **settings)
    assert differences(weights(net), weights(before)) == []


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize("keep", [0, 0.0, -0.5, 1.0001, 2, float("nan"), float("inf")])
def test_keep_outside_its_range(keep: float) -> None:
    for make in (SelectiveBackprop, TopLoss, RandomSubset):
        with pytest.raises(ValueError, match=rf"must be in \(0, 1\], but got {keep!r}.*keep=1/3"):
            make(keep=keep)


@pytest.mark.parametrize("selector", [0.5, "TopLoss", TopLoss, None, lambda losses: losses])
def test_not_a_selector(selector: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected a Selector.*SelectiveBackprop\(keep=0\.5\)"):
        ExampleSelection(selector)


def test_other_settings() -> None:
    with pytest.raises(ValueError, match="nonfinite to be one of raise, drop, train, but got 'ignore'"):
        ExampleSelection(KeepAll(), nonfinite="ignore")
    with pytest.raises(TypeError, match="kepp"):
        SelectiveBackprop(kepp=0.5)
    with pytest.raises(TypeError, match="positional"):
        ExampleSelection(KeepAll(), ScoringPass())
    with pytest.raises(ValueError, match="Drop one"):
        SelectiveBackprop(keep=0.5, beta=1)


REFUSED: dict[str, tuple[Any, str]] = {
    "loss_fn": (lambda: SelectiveBackprop(loss_fn=3), "loss_fn to be a function, such as lambda module, batch"),
    "ids": (lambda: SelectiveBackprop(ids="id"), r"ids to be a function, such as lambda batch: batch\[.*'id'"),
    "rescore_every": (lambda: SelectiveBackprop(rescore_every=1.5), "numbers of epochs, but got rescore_every=1.5"),
    "max_age": (lambda: SelectiveBackprop(max_age=0.5), "max_age=0.5. To score every batch"),
    "warmup_steps": (lambda: SelectiveBackprop(warmup_steps=1.5), "number of batches >= 0, but got 1.5"),
    "start": (lambda: SelectiveBackprop(start="x"), "`start` to be a fraction.*but got 'x'"),
    "end": (lambda: SelectiveBackprop(end=0), "must end after it starts, but got start=0.0 and end=0"),
    "seed": (lambda: SelectiveBackprop(seed=1.5), "`seed` to be a whole number.*but got 1.5"),
    "history": (lambda: SelectiveBackprop(history=1.5), "at least one loss, but got history=1.5"),
    "Scheduled": (lambda: Scheduled(TopLoss(), keep=0.3), r"`keep` to be \(start, end\).*but got 0.3"),
    "Budget": (lambda: Budget(candidates="10"), "one positive amount.*'candidates': '10'"),
    "BudgetSchedule": (lambda: BudgetSchedule(3), "or a function of the spent share, but got 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_of_a_wrong_kind(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        make()


# ---------------------------------------------------------------------- combinations


class ByRatings(Selector):
    def select(self, k: int, *, ratings: torch.Tensor) -> Selection:
        return Selection(torch.arange(k))


def test_needs_that_nobody_provides(kit: Any) -> None:
    message = r"ByRatings\(keep=0\.5\) needs ratings, but ExampleSelection provides.*Use a selector"
    refused(kit, kit.make(Momentum), ExampleSelection(ByRatings(keep=0.5)), ValueError, message)
    with pytest.raises(TypeError, match="select asks for hardness, which no one provides"):

        class Unknown(Selector):
            def select(self, k: int, *, hardness: torch.Tensor) -> Selection:
                return Selection(torch.arange(k))


def test_two_callbacks(kit: Any) -> None:
    both = [SelectiveBackprop(keep=0.5), ExampleSelection(KeepAll())]
    refused(kit, kit.make(Momentum), both, ValueError, "got SelectiveBackprop, ExampleSelection.*Keep one")


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
def test_dataloader_iter(kit: Any) -> None:
    class Fetches(Momentum):
        def training_step(self, dataloader_iter: Any) -> Any:
            batch, index, _ = next(dataloader_iter)
            return super().training_step(batch, index)

    message = "Fetches.*takes a `dataloader_iter`.*Let it take `batch`"
    refused(kit, kit.make(Fetches), ExampleSelection(TopLoss(keep=0.5)), ValueError, message)


# ---------------------------------------------------------------------- batches


class FirstColumn(Momentum):
    """Needs no more of a batch than its first entry."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x = batch[0] if isinstance(batch[0], torch.Tensor) else torch.ones(4, WIDTH)
        return F.cross_entropy(self.net(x), torch.zeros(len(x), dtype=torch.int64))


@pytest.mark.parametrize("selector", [TopLoss(keep=0.5), RandomSubset(keep=0.5)])
@pytest.mark.parametrize("refill", [False, True])
def test_batches_without_tensors(solo: Any, selector: Any, refill: bool) -> None:
    net, data = solo.make(FirstColumn), loader_of([["a", "b"]] * 2)
    callback = ExampleSelection(selector, refill=refill)
    refused(solo, net, callback, ValueError, "a batch of type list was received in which none.*collate", data=data)


def test_rows_of_unequal_length(kit: Any) -> None:
    data = loader_of([(torch.ones(8, WIDTH), torch.ones(7))])
    message = r"entries of 8, 7 rows were received: tuple\(0: Tensor\(8, 5\), 1: Tensor\(7,\)\).*0-dim"
    refused(kit, kit.make(FirstColumn), ExampleSelection(TopLoss(keep=0.5)), ValueError, message, data=data)


def test_a_later_batch_of_unequal_length(solo: Any) -> None:
    good = (torch.ones(8, WIDTH), torch.ones(8))
    net, data = solo.make(FirstColumn), loader_of([good, (good[0], torch.ones(7))])
    callback = ExampleSelection(KeepAll())
    refused(solo, net, callback, ValueError, "entries of 8, 7 rows", steps=1, data=data)


# ---------------------------------------------------------------------- losses


class Unseen(Momentum):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        return (self.net(x).logsumexp(1) - self.net(x).gather(1, y[:, None]).squeeze(1)).mean()


class Contrasts(Momentum):
    """Compares the examples of a batch with each other."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, _, ids = batch
        self.note(ids)
        z = F.normalize(self.net(x), dim=1)
        return F.cross_entropy(10 * z @ z.T, torch.arange(len(z)))


class UnseenByHand(ByHand):
    training_step = lambda self, batch, batch_idx: self.by_hand(Unseen.training_step(self, batch, batch_idx))  # noqa: E731

    def by_hand(self, loss: torch.Tensor) -> None:
        optimizer = self.optimizers()
        self.manual_backward(loss)
        optimizer.step()


@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize("module", [Unseen, Contrasts, UnseenByHand])
def test_a_loss_that_cannot_be_captured(kit: Any, module: Any, warmup: int) -> None:
    net = kit.make(module)
    message = "`example_losses\\(self, batch\\) -> Tensor\\[N\\]` on the module, or pass `loss_fn="
    refused(kit, net, ExampleSelection(TopLoss(keep=0.5), warmup=warmup), CaptureError, message)
    assert net.steps == []


def test_what_needs_no_losses_does_not_ask_for_them(solo: Any) -> None:
    net = solo.make(Contrasts)
    solo.fit(net, ExampleSelection(RandomSubset(keep=0.5)))
    assert [len(ids) for ids in net.steps] == [4] * 4


@pytest.mark.parametrize("losses", [torch.ones(3), torch.ones(8, 2), 1.0])
def test_losses_of_a_wrong_shape(solo: Any, losses: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=0.5), loss_fn=lambda module, batch: losses)
    refused(solo, solo.make(Momentum), callback, ValueError, r"loss_fn must return.*shape \(8,\), but returned")


def poisoned(*bad: int, value: float = float("nan")) -> Any:
    """A loader of 4 batches of 8 with bad examples."""
    x, y, ids = rows(32)
    x[list(bad)] = value
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y, ids), batch_size=8)


@pytest.mark.parametrize("module", [Momentum, ByHand])
@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize("row", [0, 7, 20])
def test_a_loss_that_is_not_a_number(kit: Any, module: Any, warmup: int, row: int) -> None:
    batch = row // 8
    what = (
        rf"1 of 8 values of the scores of batch {batch}"
        if not (warmup and batch)
        else "1 of 1 values of the training loss"
    )
    message = rf"{what}.*NaN or inf.*nonfinite=\"drop\".*nonfinite=\"train\""
    callback = ExampleSelection(KeepBest(), warmup=warmup)
    refused(kit, kit.make(module), callback, FloatingPointError, message, steps=batch, data=poisoned(row))


class KeepBest(Selector):
    """All rows, but only after a look at their losses: as many steps as plain training makes."""

    def select(self, k: int, *, losses: torch.Tensor) -> Selection:
        return Selection(torch.arange(len(losses)))


def test_the_check_is_made_anew_for_another_module(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=0.5))
    solo.fit(solo.make(Momentum), callback)
    refused(solo, solo.make(Contrasts), callback, CaptureError, "compares examples")


def test_an_infinite_loss(solo: Any) -> None:
    class Infinite(Momentum):
        def example_losses(self, batch: Any) -> torch.Tensor:
            return torch.full((8,), float("inf"))

    net = solo.make(Infinite)
    refused(solo, net, SelectiveBackprop(keep=0.5), FloatingPointError, "8 of 8 values of the scores of batch 0")


DROPPING = {
    "TopLoss": lambda: ExampleSelection(TopLoss(keep=0.5), nonfinite="drop"),
    "one of the user's": lambda: ExampleSelection(KeepBest(0.5), nonfinite="drop"),
    "the preset": lambda: SelectiveBackprop(0.5, nonfinite="drop"),
    "its pass": lambda: SelectiveBackprop(0.5, nonfinite="drop", scoring=ScoringPass()),
}


@pytest.mark.parametrize("name", DROPPING)
def test_drop_never_trains_such_rows(solo: Any, name: str) -> None:
    net = solo.make(Momentum)
    solo.fit(net, DROPPING[name](), data=poisoned(1, 3, 9), max_epochs=5)
    if name != "one of the user's":  # which keeps all rows
        assert [len(ids) for ids in net.steps] == [4] * 4 * 5
    assert not {1, 3, 9} & {i for ids in net.steps for i in ids}
    assert all(value.isfinite().all() for value in weights(net).values())


def test_drop_trains_fewer_where_fewer_are_left(solo: Any) -> None:
    net = solo.make(Momentum)
    solo.fit(net, ExampleSelection(TopLoss(keep=0.5), nonfinite="drop"), data=poisoned(*range(8, 14)))
    assert [len(ids) for ids in net.steps] == [4, 2, 4, 4]
    assert net.steps[1] == [14, 15]


def test_drop_with_nothing_left(kit: Any) -> None:
    callback = ExampleSelection(KeepBest(), nonfinite="drop")
    message = "All 8 losses of a batch are NaN or inf.*leaves no row"
    refused(kit, kit.make(Momentum), callback, FloatingPointError, message, steps=1, data=poisoned(*range(8, 16)))


def test_train_always_trains_such_rows(solo: Any) -> None:
    class Survives(Classifier):
        def example_losses(self, batch: Any) -> torch.Tensor:
            return self.losses(batch).masked_fill(torch.isin(batch[2], torch.tensor([1, 3, 9])), float("nan"))

    net = solo.make(Survives)
    solo.fit(net, ExampleSelection(TopLoss(keep=0.5), nonfinite="train"))
    assert [len(ids) for ids in net.steps] == [4] * 4
    assert {1, 3} <= set(net.steps[0])
    assert 9 in net.steps[1]


@pytest.mark.parametrize("selector", [KeepUnlearned(), InfoBatch(0.8), LossPercentile(0.25, fixed_size=False)])
def test_train_forces_all_of_them_where_the_number_is_free(selector: Selector) -> None:
    """And chooses among the others as it would without them: k is no quota that broken rows could use up."""
    losses = torch.full((32,), 3.0)
    losses[4:8] = float("inf")
    chosen = select_finite(selector, {"losses": losses, "ids": torch.arange(32)}, selector.count(32), "train")
    rows = chosen.indices.tolist()
    assert {4, 5, 6, 7} <= set(rows)
    assert rows == sorted(set(rows))
    if isinstance(selector, (KeepUnlearned, InfoBatch)):  # none of these equal losses is learned, or below the mean
        assert len(rows) == 32


def test_a_broken_step_breaks_as_it_would_without_us(kit: Any) -> None:
    class Broken(Momentum):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1][:, None].expand(-1, CLASSES + 1))

    refused(kit, kit.make(Broken), ExampleSelection(TopLoss(keep=0.5)), RuntimeError, "multi-target not supported")
