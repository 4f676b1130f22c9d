"""Passes over some batches only, and passes by a proxy, in a training."""

import copy
import time
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from litselect.callbacks import ExampleSelection, SelectiveBackprop, proxy_training
from litselect.callbacks.proxy_training import ProxyTraining
from litselect.scoring import ScoringPass
from litselect.selectors import KeepAll, TopLoss
from tests.callbacks.kit import CLASSES, WIDTH, Changing, Classifier, differences, loader, rows

N, BATCH = 48, 12  # four batches an epoch


class Proxy(nn.Module):
    def __init__(self, noisy: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.net = nn.Sequential(nn.Dropout(0.5) if noisy else nn.Identity(), nn.Linear(WIDTH, CLASSES))
        self.batches: list[Any] = []

    def example_losses(self, batch: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.batches.append(batch[2].tolist())
        return F.cross_entropy(self.net(batch[0]), batch[1], reduction="none")


def fit(solo: Any, callback: Any, epochs: int = 4) -> Any:
    torch.manual_seed(0)
    module = solo.make(Classifier)
    solo.fit(module, *([] if callback is None else [callback]), data=loader(N, BATCH), max_epochs=epochs)
    return module


# ---------------------------------------------------------------------- over every n-th batch


def test_a_pass_over_every_other_batch(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(0.5), scoring=ScoringPass(every=2), warmup=1)
    module = fit(solo, callback, epochs=5)
    assert callback.counters.scored == 4 * N // 2
    assert callback.ledger is not None
    # The loader does not shuffle: the halves of the data take turns, and every example has been scored twice.
    assert callback.ledger.scored.tolist() == [2] * N
    assert [len(step) for step in module.steps[4:]] == [BATCH // 2] * 16


def test_in_between_the_last_known_losses_decide(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(0.5), scoring=ScoringPass(every=2), warmup=1)
    chosen: list[Any] = []

    class Watch:
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and batch_idx == 0:  # (0 + 1) % 2: no pass
                known = callback.ledger.loss[batch[2]]
                chosen.append(batch[2][known.argsort(descending=True)[: BATCH // 2]].sort().values.tolist())

    torch.manual_seed(0)
    module = solo.make(Classifier)
    solo.fit(module, callback, solo.callback(Watch), data=loader(N, BATCH), max_epochs=2)
    assert sorted(module.steps[4]) == chosen[0]


def test_one_answer_to_where_scores_come_from() -> None:
    for more in ({"rescore_every": 2}, {"max_age": 1}):
        with pytest.raises(ValueError, match="Choose one"):
            ExampleSelection(TopLoss(0.5), scoring=ScoringPass(every=2), **more)


# ---------------------------------------------------------------------- a proxy


def by_proxy(noisy: bool = False, lr: float | None = 0.1) -> ScoringPass:
    proxy = Proxy(noisy)
    return ScoringPass(proxy=proxy, proxy_optimizer=None if lr is None else torch.optim.SGD(proxy.parameters(), lr))


def test_a_proxy_learns_from_the_rows_that_are_trained(solo: Any) -> None:
    scoring = by_proxy()
    before = copy.deepcopy(scoring.proxy)
    module = fit(solo, ExampleSelection(TopLoss(0.5), scoring=scoring))
    proxy: Any = scoring.proxy
    assert proxy.batches == module.steps
    # The same steps by hand end in the same place.
    x, y, _ = rows(N)
    optimizer = torch.optim.SGD(before.parameters(), 0.1)
    for ids in module.steps:
        optimizer.zero_grad()
        before.example_losses((x[ids], y[ids], torch.tensor(ids))).mean().backward()
        optimizer.step()
    torch.testing.assert_close(proxy.state_dict(), before.state_dict())


def test_a_proxy_without_optimizer_stays_as_it_is(solo: Any) -> None:
    scoring = by_proxy(lr=None)
    before = copy.deepcopy(scoring.proxy.state_dict())  # type: ignore
    callback = ExampleSelection(TopLoss(0.5), scoring=scoring)
    fit(solo, callback)
    assert differences(before, scoring.proxy.state_dict()) == []  # type: ignore
    assert callback.counters.scored == 4 * N


def test_a_proxy_that_draws_leaves_the_training_alone(solo: Any) -> None:
    scoring = by_proxy(noisy=True)
    plain, stream = fit(solo, None), torch.get_rng_state()
    beside = fit(solo, ExampleSelection(KeepAll(), scoring=scoring))
    assert differences(dict(plain.state_dict()), dict(beside.state_dict())) == []
    assert torch.equal(torch.get_rng_state(), stream)
    assert len(scoring.proxy.batches) == 16  # type: ignore


@pytest.mark.parametrize("more", [{"max_age": 1}, {"every": 2}])
def test_losses_of_a_proxy_are_not_mixed_with_those_of_training(solo: Any, more: Any) -> None:
    proxy, every = Proxy(), more.pop("every", 1)
    callback = SelectiveBackprop(keep=0.5, scoring=ScoringPass(proxy=proxy, every=every), **more)
    with pytest.raises(ValueError, match="are others"):
        fit(solo, callback)


def test_losses_of_small_images_are_not_mixed_with_those_of_training(solo: Any) -> None:
    with pytest.raises(ValueError, match="are others"):
        fit(solo, SelectiveBackprop(keep=0.5, scoring=ScoringPass(resolution=0.5), max_age=1))


def test_time_of_a_proxy_is_counted(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ProxyTraining.step
    monkeypatch.setattr(ProxyTraining, "step", lambda *args: (time.sleep(0.05), step(*args)))
    callback = ExampleSelection(TopLoss(0.5), scoring=by_proxy())
    fit(solo, callback, epochs=1)
    assert callback.counters.scoring_seconds > 4 * 0.05


def test_a_proxy_with_batch_norm_and_one_row(solo: Any) -> None:
    """One row alone trains the module, which has no batch statistics."""
    proxy = Proxy()
    proxy.net.insert(0, nn.BatchNorm1d(WIDTH))
    scoring = ScoringPass(proxy=proxy, proxy_optimizer=torch.optim.SGD(proxy.parameters(), 0.1))
    torch.manual_seed(0)
    module = solo.make(Classifier)
    solo.fit(module, ExampleSelection(TopLoss(0.5), scoring=scoring), data=loader(13, BATCH), max_epochs=1)
    assert [len(step) for step in module.steps] == [6, 1]
    assert len(proxy.batches) == 1


@pytest.mark.parametrize("how", ["pops", "writes"])
def test_a_proxy_is_trained_on_what_the_step_had_not_changed_yet(solo: Any, how: str) -> None:
    seen: list[float] = []

    class Sees(Proxy):
        def example_losses(self, batch: Any) -> torch.Tensor:
            seen.append(batch[0].mean().item())
            return super().example_losses(batch)

    proxy = Sees()
    scoring = ScoringPass(proxy=proxy, proxy_optimizer=torch.optim.SGD(proxy.parameters(), 0.1))
    solo.fit(solo.make(Changing, how), ExampleSelection(TopLoss(0.5), scoring=scoring), data=loader(N, BATCH))
    assert len(seen) == 2 * N // BATCH
    assert max(map(abs, seen)) < 2


def test_a_step_is_trained_on_what_its_proxy_changes(solo: Any) -> None:
    """A proxy may take its batch apart, too."""

    class Greedy(Proxy):
        def example_losses(self, batch: Any) -> torch.Tensor:
            losses = super().example_losses(batch)
            batch.clear()
            return losses

    proxy = Greedy()
    scoring = ScoringPass(proxy=proxy, proxy_optimizer=torch.optim.SGD(proxy.parameters(), 0.1))
    module = solo.make(Classifier)
    solo.fit(module, ExampleSelection(TopLoss(0.5), scoring=scoring), data=loader(N, BATCH))
    assert [len(step) for step in module.steps] == [BATCH // 2] * 4


@pytest.mark.parametrize("came", ["training", "evaluating", "partly frozen"])
def test_a_proxy_keeps_its_modes(solo: Any, came: str) -> None:
    proxy = Proxy()
    norm = nn.BatchNorm1d(WIDTH)
    proxy.net.insert(0, norm)
    if came != "training":
        (proxy if came == "evaluating" else norm).eval()
    modes = [part.training for part in proxy.modules()]
    scoring = ScoringPass(proxy=proxy, proxy_optimizer=torch.optim.SGD(proxy.parameters(), 0.1))
    solo.fit(solo.make(Classifier), ExampleSelection(TopLoss(0.5), scoring=scoring), data=loader(N, BATCH))
    assert [part.training for part in proxy.modules()] == modes
    assert (norm.num_batches_tracked == 4) == (came != "partly frozen")


def test_gradients_of_a_part_that_is_not_trained_do_not_pile_up(solo: Any) -> None:
    proxy = Proxy()
    proxy.net.insert(0, nn.Linear(WIDTH, WIDTH))
    scoring = ScoringPass(proxy=proxy, proxy_optimizer=torch.optim.SGD(proxy.net[-1].parameters(), 0.1))
    solo.fit(solo.make(Classifier), ExampleSelection(TopLoss(0.5), scoring=scoring), data=loader(N, BATCH))
    assert all(parameter.grad is None for parameter in proxy.parameters())


@pytest.mark.parametrize("here", [1, 4])
def test_ranks_train_a_proxy_with_batch_norm_together_or_not_at_all(monkeypatch: pytest.MonkeyPatch, here: int) -> None:
    """Or one that skips would leave the others waiting for its gradients."""
    proxy = Proxy()
    proxy.net.insert(0, nn.BatchNorm1d(WIDTH))
    scoring = ScoringPass(proxy=proxy, proxy_optimizer=torch.optim.SGD(proxy.parameters(), 0.1))
    training = ProxyTraining(scoring, None)
    training.place(torch.device("cpu"))
    asked: list[bool] = []
    monkeypatch.setattr(proxy_training, "world_size", lambda: 2)
    monkeypatch.setattr(proxy_training, "all_ready", lambda ready, _: bool(asked.append(ready)))  # another has one row
    training.step(list(rows(here)), here)
    assert asked == [here > 1]
    assert not proxy.batches


def test_a_proxy_of_another_shape_can_not_go_on(solo: Any) -> None:
    state = ProxyTraining(by_proxy(), None).state_dict()
    scoring = ScoringPass(proxy=(small := nn.Linear(2, 2)), proxy_optimizer=torch.optim.SGD(small.parameters(), 0.1))
    with pytest.raises(ValueError, match="can't go on from"):
        ProxyTraining(scoring, None, state).place(torch.device("cpu"))


def test_a_proxy_under_true_half_precision_is_refused(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(0.5), scoring=by_proxy())
    with pytest.raises(ValueError, match=r"not the proxy\. Use mixed precision"):
        solo.fit(solo.make(Classifier), callback, precision="bf16-true", max_epochs=1)
