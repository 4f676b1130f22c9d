"""Training out of the forward that scores: through a Trainer, with its logs, metrics, state and fallbacks."""

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, SumMetric

from litselect.callbacks import ExampleSelection, reused_forward
from litselect.scoring import ScoringPass
from litselect.scoring.forward_reuse import engine
from litselect.selectors import ImportanceSampling, KeepAll, LossPercentile, RandomSubset, TopLoss
from tests.callbacks.kit import (
    CLASSES,
    WIDTH,
    Classifier,
    differences,
    loader,
    random_streams,
    seed_streams,
    weights,
)

N, K = 8, 4


class Net:
    """Nothing in it makes the rows of a forward depend on which others are in it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, 16), *self.between(), nn.ReLU(), nn.Linear(16, CLASSES))
        self.steps: list[list[int]] = []  # put back after a scoring pass, a recording, a check

    def between(self) -> list[nn.Module]:
        return [nn.LayerNorm(16)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        loss = F.cross_entropy(self.net(x), y)
        self.note(ids, loss)
        return loss

    def note(self, ids: Any, loss: torch.Tensor) -> None:
        self.steps.append(ids.tolist())
        self.log("loss", loss.detach(), on_step=True, on_epoch=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class WithDropout(Net):
    def between(self) -> list[nn.Module]:
        return [nn.LayerNorm(16), nn.Dropout(0.3)]


class WithBatchNorm(Net):
    def between(self) -> list[nn.Module]:
        return [nn.BatchNorm1d(16)]


def train(
    kit: Any, module: type, reuse: Any = True, selector: Any = None, epochs: int = 3, data: Any = None, **settings: Any
) -> dict[str, Any]:
    """One run, and what can be seen of it."""
    seed_streams()
    net, logger = kit.make(module), kit.logger()
    options = settings.pop("options", {})
    callback = ExampleSelection(selector or TopLoss(keep=0.5), reuse_forward=reuse, **settings)
    seed_streams()
    trainer = kit.fit(net, callback, data=data or loader(40, N), max_epochs=epochs, logger=[logger], **options)
    return {
        "weights": weights(net),
        "steps": list(net.steps),
        "streams": random_streams(),
        "rows": [(step, {k: v for k, v in row.items() if not k.startswith("select/")}) for step, row in logger.rows],
        "net": net,
        "callback": callback,
        "trainer": trainer,
    }


def unlike(one: dict[str, Any], other: dict[str, Any], *names: str) -> list[str]:
    names = names or ("weights", "steps", "streams", "rows")
    return differences({name: one[name] for name in names}, {name: other[name] for name in names})


def close(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(one["weights"][n], other["weights"][n], atol=tolerance) for n in one["weights"])


# ---------------------------------------------------------------------- what it trains


def test_training_is_that_of_a_scoring_pass(kit: Any) -> None:
    standard, reused = train(kit, Net, False), train(kit, Net)
    assert unlike(standard, reused, "steps", "streams") == []
    assert close(standard, reused)
    assert [(step, sorted(row)) for step, row in standard["rows"]] == [
        (step, sorted(row)) for step, row in reused["rows"]
    ]
    counters = reused["callback"].counters
    assert (counters.seen, counters.scored, counters.reused, counters.trained, counters.steps) == (
        120,
        120,
        120,
        60,
        15,
    )
    assert (standard["callback"].counters.reused, reused["callback"].reuse_refused) == (0, "")


class Masked(WithDropout):
    """The same training by hand: one forward of all, backward from the chosen rows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        losses = F.cross_entropy(self.net(x), y, reduction="none")
        chosen = losses.topk(K).indices
        self.steps.append(sorted(ids[chosen].tolist()))
        self.log("loss", losses[chosen].mean().detach(), on_step=True, on_epoch=True)
        return losses[chosen].mean()


def test_dropout_is_drawn_once_for_scores_and_gradients(solo: Any) -> None:
    """To the bit of the random streams, training is that of one forward of all candidates."""
    reused, by_hand = train(solo, WithDropout), train(solo, Masked, False, KeepAll())
    assert unlike(reused, by_hand, "steps", "streams") == []
    assert close(reused, by_hand)


def test_weights_of_the_losses_apply(solo: Any) -> None:
    selector = lambda: ImportanceSampling(keep=0.5, seed=3)  # noqa: E731
    standard, reused = (train(solo, Net, reuse, selector()) for reuse in (False, True))
    assert reused["callback"].reuse_refused == ""
    assert reused["callback"].counters.reused > 0
    assert unlike(standard, reused, "steps") == []
    assert close(standard, reused)


def test_a_ledger_overhears(solo: Any) -> None:
    standard, reused = (train(solo, Net, reuse, LossPercentile(0.5, seed=1), ledger=True) for reuse in (False, True))
    assert reused["callback"].counters.reused == 120
    assert close(standard, reused)
    one, other = standard["callback"].ledger.state_dict(), reused["callback"].ledger.state_dict()
    assert all(torch.allclose(one[name].double(), other[name].double(), atol=1e-4, equal_nan=True) for name in one)


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"precision": "64-true"}, {"precision": "bf16-true"}])
def test_precisions(solo: Any, options: Any) -> None:
    standard, reused = (train(solo, Net, reuse, RandomLossless(), options=options) for reuse in (False, True))
    assert (reused["callback"].reuse_refused, reused["callback"].counters.reused) == ("", 120)
    assert close(standard, reused, 1e-2)


class RandomLossless(RandomSubset):
    """Looks at losses, chooses without: rounding must not decide who is trained."""

    def __init__(self) -> None:
        super().__init__(keep=0.5, seed=5)

    needs = frozenset({"losses"})

    def choose(self, **known: Any) -> Any:
        known.pop("losses", None)
        return super().choose(**known)


@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}])
def test_other_options(solo: Any, options: Any) -> None:
    standard, reused = (train(solo, Net, reuse, options=options) for reuse in (False, True))
    assert reused["callback"].counters.reused == 120
    assert unlike(standard, reused, "steps", "streams") == []
    assert close(standard, reused)


@pytest.mark.parametrize("selector", [KeepAll, lambda: TopLoss(keep=1.0), lambda: RandomSubset(keep=1.0)])
def test_identity_where_every_row_is_kept(solo: Any, selector: Callable[[], Any]) -> None:
    plain, reused = train(solo, WithDropout, False, KeepAll()), train(solo, WithDropout, True, selector())
    assert unlike(plain, reused) == []
    assert reused["callback"].counters.reused == 0


@pytest.mark.filterwarnings("ignore:Selection by .* never begins")
def test_warm_up_is_plain_training(solo: Any) -> None:
    plain, reused = train(solo, WithDropout, False, KeepAll()), train(solo, WithDropout, warmup=3)
    assert unlike(plain, reused) == []


def test_a_short_last_batch_gets_a_plan_of_its_own(solo: Any) -> None:
    standard, reused = (train(solo, Net, reuse, data=loader(38, N)) for reuse in (False, True))
    assert (reused["callback"].reuse_refused, reused["callback"].counters.reused) == ("", 3 * 38)
    assert close(standard, reused)


# ---------------------------------------------------------------------- batch normalisation


class NormByHand(WithBatchNorm):
    """One forward of all; the gradient of batch normalisation by the documented formula over the chosen rows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        first, norm, relu, last = self.net
        with torch.no_grad():
            losses = F.cross_entropy(self.net(x), y, reduction="none")  # which updates the running statistics
            chosen = losses.topk(K).indices.sort().values
            mean, scale = (h := first(x)).mean(0), (h.var(0, unbiased=False) + norm.eps).rsqrt()
        self.steps.append(ids[chosen].tolist())
        normal = Normal.apply(first(x[chosen]), mean, scale) * norm.weight + norm.bias
        loss = F.cross_entropy(last(relu(normal)), y[chosen])
        self.log("loss", loss.detach(), on_step=True, on_epoch=True)
        return loss


class Normal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hat := (x - mean) * scale, scale)
        return hat

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (d,), (hat, scale) = gradients, ctx.saved_tensors
        return scale * (d - d.mean(0) - hat * (d * hat).mean(0)), None, None


def test_batch_norm_is_trained_by_the_documented_formula(solo: Any) -> None:
    reused, by_hand = train(solo, WithBatchNorm, "batchnorm"), train(solo, NormByHand, False, KeepAll())
    assert reused["callback"].reuse_refused == ""
    assert unlike(reused, by_hand, "steps", "streams") == []
    assert close(reused, by_hand, 1e-4)
    assert int(reused["weights"]["net.1.num_batches_tracked"]) == 15


# ---------------------------------------------------------------------- fallbacks


class Branching(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits if logits.mean() > 0 else 2 * logits, batch[1])
        self.note(batch[2], loss)
        return loss


class Centred(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits - logits.mean(0).detach(), batch[1])
        self.note(batch[2], loss)
        return loss


class Recurrent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, CLASSES, batch_first=True)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self.lstm(batch[0][..., None])[0][:, -1], batch[1])
        self.note(batch[2], loss)
        return loss


class LogsFirst(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("first", float(batch_idx))
        return super().training_step(batch, batch_idx)


REFUSED = {
    "branch": (Branching, "depend on values"),
    "examples that influence each other": (Centred, "examples influence each other"),
    "LSTM": (Recurrent, "has shape"),
    "batch normalisation": (WithBatchNorm, 'reuse_forward="batchnorm"'),
    "a log before the network": (LogsFirst, "before autograd has saved anything"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_reused_trains_as_without_and_says_why_once(solo: Any, name: str) -> None:
    module, reason = REFUSED[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Examples|.*other rows")
        standard = train(solo, module, False, scoring=ScoringPass(check=False))
    with pytest.warns(UserWarning, match="reuse_forward can't be applied") as said:
        fallen = train(solo, module, scoring=ScoringPass(check=False))
    ours = [str(warning.message) for warning in said if "reuse_forward" in str(warning.message)]
    assert [reason in message for message in ours] == [True]
    assert unlike(standard, fallen) == []
    assert (fallen["callback"].counters.reused, fallen["callback"].counters.scored) == (0, 120)


class ChangesLater(Net):
    """Takes another way in the third step, by no tensor's value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.count += 1
        h = self.net[:2](batch[0])
        late = self.count == 3 and len(batch[2]) < N
        loss = F.cross_entropy(self.net[2:](h * 1 if late else h), batch[1])
        self.note(batch[2], loss)
        return loss


def test_a_replay_that_leaves_its_plan_is_made_good(solo: Any) -> None:
    standard = train(solo, ChangesLater, False)
    with pytest.warns(UserWarning, match="a replay differs: operation") as said:
        fallen = train(solo, ChangesLater)
    assert len([warning for warning in said if "reuse_forward" in str(warning.message)]) == 1
    assert unlike(standard, fallen, "steps", "streams") == []
    assert close(standard, fallen)
    assert fallen["net"].count == standard["net"].count == 15
    assert fallen["callback"].counters.reused == 16
    assert "log" not in vars(fallen["net"])


def test_a_wrapped_module_is_refused(solo: Any, monkeypatch: Any) -> None:
    original = reused_forward.ReusedForward._record

    def wrapped(self: Any, *args: Any) -> Any:
        strategy, model = self._trainer.strategy, self._trainer.strategy.model
        try:
            strategy._model = nn.Sequential(model)
            return original(self, *args)
        finally:
            strategy._model = model

    monkeypatch.setattr(reused_forward.ReusedForward, "_record", wrapped)
    with pytest.warns(UserWarning, match="SingleDeviceStrategy wraps the module"):
        fallen = train(solo, Net)
    assert unlike(train(solo, Net, False), fallen) == []


def test_a_refusal_is_remembered_by_checkpoints(solo: Any) -> None:
    with pytest.warns(UserWarning, match="reuse_forward"):
        callback = train(solo, Branching)["callback"]
    again = ExampleSelection(TopLoss(keep=0.5), reuse_forward=True)
    again.load_state_dict(callback.state_dict())
    assert "depend on values" in again.reuse_refused


# ---------------------------------------------------------------------- logs and metrics


class Measured(Net):
    """Metrics before the loss, after it, and a log of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.late = SumMetric(), MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        logits = self.net(x)
        self.total(logits.detach())
        loss = F.cross_entropy(logits, y)
        self.late.update((logits.argmax(1) == y).float())
        self.log("total", self.total, on_step=False, on_epoch=True)
        self.log("accuracy", self.late, on_step=True, on_epoch=True)
        self.log("confidence", logits.detach().softmax(1).amax(), on_step=True)
        self.note(ids, loss)
        return loss


def test_metrics_and_logs_see_the_chosen_rows(solo: Any) -> None:
    standard, reused = train(solo, Measured, False), train(solo, Measured)
    assert reused["callback"].counters.reused == 120
    assert len(standard["rows"]) == len(reused["rows"]) > 10
    for (step, one), (other_step, other) in zip(standard["rows"], reused["rows"], strict=True):
        assert (step, one.keys()) == (other_step, other.keys())
        assert all(one[name] == pytest.approx(other[name], abs=1e-4) for name in one)


def test_metrics_would_be_part_of_the_network_without_the_guard(solo: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(reused_forward, "_reaching", lambda reach, method: method)
    with pytest.warns(UserWarning, match="depend on values"):  # a metric looks for NaN
        assert train(solo, Measured)["callback"].counters.reused == 0


# ---------------------------------------------------------------------- traces, memory, state


class Raising(Net):
    def on_after_backward(self) -> None:
        if self.trainer.global_step == 2:
            raise RuntimeError("broken")


def test_memory_is_freed_after_the_step_and_after_an_exception(solo: Any, monkeypatch: Any) -> None:
    saved: list[Any] = []
    original = engine.ForwardReuse.prepare

    def prepare(self: Any, rows: Any) -> None:
        original(self, rows)
        own = {id(p) for p in self._module.parameters()} | {id(t) for t in self.recording.batch}
        saved.extend(weakref.ref(t) for t in self.recording.recorder.saved if id(t) not in own)

    monkeypatch.setattr(engine.ForwardReuse, "prepare", prepare)
    with pytest.raises(RuntimeError, match="broken"):
        train(solo, Raising)
    gc.collect()
    assert len(saved) > 6
    assert [tensor() for tensor in saved if tensor() is not None] == []


def test_the_module_is_as_it_was(solo: Any) -> None:
    reused = train(solo, Measured)
    standard = train(solo, Measured, False)
    assert vars(reused["net"]).keys() == vars(standard["net"]).keys()
    assert not reused["net"].total._forward_hooks
    assert "forward" not in vars(reused["net"].total)


class Noisy(WithDropout):
    """Draws from all streams, before the network and after it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        import random

        import numpy as np

        x, y, ids = batch
        x = x + 0.1 * torch.randn_like(x) + 0.01 * random.random() + 0.01 * float(np.random.rand())  # noqa: NPY002
        loss = F.cross_entropy(self.net(x), y)
        self.note(ids, loss)
        return loss + 0 * torch.rand(1).sum()


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_gives_the_weights_of_one_that_was_not(solo: Any, tmp_path: Any) -> None:
    def run(folder: Any, resume: Any = None, seed: int = 3) -> dict[str, Any]:
        seed_streams(seed)
        net = solo.make(Noisy)
        saving = solo.pl.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        callback = ExampleSelection(LossPercentile(0.5, seed=2), reuse_forward=True)
        trainer = solo.trainer(callback, saving, max_epochs=3, enable_checkpointing=True)
        seed_streams(seed)
        trainer.fit(net, loader(40, N, shuffle=True), ckpt_path=resume, **RESUME)
        assert callback.counters.reused == 120
        return {"weights": weights(net), "streams": random_streams()}

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", tmp_path / "whole" / "epoch=0.ckpt", 77)
    assert differences(whole, resumed) == []


RESUME: dict[str, Any] = {}


def test_the_capture_is_checked_on_the_first_batch(solo: Any, monkeypatch: Any) -> None:
    checked: list[Any] = []
    original = ScoringPass.verify

    def verify(self: Any, module: Any, batch: Any, n: int, losses: Any, **source: Any) -> bool:
        checked.append((self.mode, n, original(self, module, batch, n, losses, **source)))
        return checked[-1][-1]

    monkeypatch.setattr(ScoringPass, "verify", verify)
    train(solo, WithDropout)
    assert checked == [("train", N, True)]


# ---------------------------------------------------------------------- refused at fit start


class ByHand(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Own(Classifier):
    def example_losses(self, batch: Any) -> torch.Tensor:
        return self.losses(batch)


SETTINGS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "manual": (ByHand, {}, "optimizes manually"),
    "own losses": (Own, {}, "example_losses"),
    "loss_fn": (Classifier, {"loss_fn": lambda module, batch: module.losses(batch)}, "loss_fn"),
    "ledger": (Classifier, {"scoring": "ledger"}, "scoring='ledger'"),
    "rescore_every": (Classifier, {"rescore_every": 2}, "rescore_every"),
    "max_age": (Classifier, {"max_age": 1}, "max_age"),
    "refill": (Classifier, {"refill": True}, "refill"),
    "bf16": (Classifier, {"scoring": ScoringPass(precision="bf16")}, "another"),
    "chunks": (Classifier, {"scoring": ScoringPass(chunk=2)}, "another"),
    "any number of rows": (Classifier, {"selector": LossPercentile(0.5, fixed_size=False)}, "any number of rows"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_refused(solo: Any, name: str) -> None:
    module, settings, message = SETTINGS[name]
    callback = ExampleSelection(**{"selector": TopLoss(keep=0.5), **settings}, reuse_forward=True)
    with pytest.raises(ValueError, match=r"reuse_forward=True.*trains out of the forward") as found:
        solo.fit(solo.make(module), callback)
    assert message in str(found.value)


def test_a_compiled_module_is_refused(solo: Any) -> None:
    net = solo.make(Classifier)
    net.net.compile()
    with pytest.raises(ValueError, match="is compiled"):
        solo.fit(net, ExampleSelection(TopLoss(keep=0.5), reuse_forward=True))


def test_what_is_no_setting_is_refused(solo: Any, any_shape: None) -> None:
    with pytest.raises(ValueError, match=r'True, False or "batchnorm", got \'yes\''):
        solo.fit(solo.make(Classifier), ExampleSelection(TopLoss(keep=0.5), reuse_forward="yes"))
