"""With every row kept, training is what it is without the callback, to the bit."""

import random
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, SumMetric

from litselect.callbacks import ExampleSelection, SelectiveBackprop, scorer
from litselect.callbacks import quiet as quiet_module
from litselect.scoring import ScoringPass, no_trace
from litselect.selectors import KeepAll, RandomSubset, TopLoss
from tests.callbacks.kit import CLASSES, WIDTH, clone, differences, loader, random_streams, seed_streams

EPOCHS, BATCHES = 5, 10  # 50 steps

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:Selection by .* never begins"),
]


class Nosy:
    """A module in which everything that a forward pass could leave behind comes to light."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES)
        )
        self.register_buffer("average", torch.zeros(()))
        self.every_step, self.every_third, self.total = MeanMetric(), MeanMetric(), SumMetric()
        self.outputs: list[Any] = []
        self.recent: dict[str, Any] = {}
        self.count = 0

    def loss_of(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y, _ = batch
        x = x + 0.1 * torch.randn_like(x) + 0.01 * float(np.random.rand()) + 0.01 * random.random()  # noqa: NPY002
        loss = F.cross_entropy(self.net(x), y)
        value = loss.detach()
        self.average.mul_(0.9).add_(value, alpha=0.1)
        self.outputs.append(float(value))
        self.recent[f"batch {batch_idx}"] = float(value)
        self.count += 1
        self.every_step(value, weight=len(y))
        self.total(value)
        self.log("metric", self.every_step, on_step=True, on_epoch=True)
        self.log("total", self.total, on_step=False, on_epoch=True)
        if batch_idx % 3 == 2:
            self.every_third(value)
            self.log("every_third", self.every_third, on_step=True, on_epoch=True)
            self.log("third_loss", value, on_step=True, on_epoch=True)
            self.logger.log_metrics({"direct": float(value)}, step=self.global_step)
        if not torch.is_grad_enabled():
            self.log("without_graph", value)
            self.log_dict({"without_graph_too": value})
        self.log("loss", value, on_step=True, on_epoch=True, prog_bar=True)
        self.logger.experiment.write(batch_idx=float(batch_idx), count=float(self.count))
        self.print(f"step {self.count}")
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss_of(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log("outputs", float(len(self.outputs)))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y, _ = batch
        self.log("val_loss", F.cross_entropy(self.net(x), y))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * BATCHES)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class NosyByHand(Nosy):
    """The same under manual optimization, with a look at the last step's gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        gradient = self.net[0].weight.grad
        self.log("last_gradient", 0.0 if gradient is None else gradient.norm(), on_step=True, on_epoch=True)
        self.toggle_optimizer(optimizer)
        loss = self.loss_of(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self.lr_schedulers().step()


class Hooks:
    """Notes the hooks that a step reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def on_before_backward(self, *args: Any) -> None:
        self.calls.append("before_backward")

    def on_after_backward(self, *args: Any) -> None:
        self.calls.append("after_backward")

    def on_before_optimizer_step(self, *args: Any) -> None:
        self.calls.append("before_optimizer_step")

    def on_before_zero_grad(self, *args: Any) -> None:
        self.calls.append("before_zero_grad")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.calls.append(f"{batch_idx}: {batch[2].tolist()} {outputs}")


def observe(kit: Any, capsys: Any, tmp_path: Any, *selection: Any, module: type = Nosy, rows: int = 76) -> Any:
    """Train 50 steps and answer with all that can be seen of it."""
    seed_streams()
    net, logger, files, hooks = kit.make(module), kit.logger(), kit.checkpoint_io(), kit.callback(Hooks)
    checkpoint = kit.pl.callbacks.ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=7, save_top_k=-1, save_last=True
    )
    seed_streams()
    trainer = kit.trainer(
        *selection,
        hooks,
        checkpoint,
        max_epochs=EPOCHS,
        log_every_n_steps=3,
        enable_checkpointing=True,
        logger=[logger],
        plugins=[files],
    )
    capsys.readouterr()
    trainer.fit(net, loader(rows, 8, shuffle=True), loader(16))
    assert trainer.global_step == EPOCHS * BATCHES
    for saved in files.saved.values():
        for callback in selection:
            saved["callbacks"].pop(callback.state_key)
    assert len(files.saved) == 8
    return {
        "weights and buffers": dict(net.state_dict()),
        "optimizer": trainer.optimizers[0].state_dict(),
        "random streams": random_streams(),
        "attributes": [net.outputs, net.recent, net.count, net.training],
        "rows": [(step, without(row)) for step, row in logger.rows],
        "callback_metrics": without(trainer.callback_metrics),
        "progress_bar_metrics": without(trainer.progress_bar_metrics),
        "checkpoints": files.saved,
        "hooks": hooks.calls,
        "printed": [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")],
    }


def without(row: dict[str, Any]) -> dict[str, Any]:
    """What remains beside the keys of ours."""
    return {key: clone(value) for key, value in row.items() if not key.startswith("select/")}


SELECT_ALL = {
    "KeepAll": lambda: ExampleSelection(KeepAll()),
    "TopLoss": lambda: ExampleSelection(TopLoss(keep=1.0)),
    "TopLoss in train mode": lambda: ExampleSelection(TopLoss(keep=1.0), scoring=ScoringPass(mode="train")),
    "RandomSubset": lambda: ExampleSelection(RandomSubset(keep=1.0)),
    "SelectiveBackprop": lambda: SelectiveBackprop(keep=1.0),
    "SelectiveBackprop, scored": lambda: SelectiveBackprop(keep=1.0, scoring=ScoringPass(), warmup=0),
    "warming up": lambda: SelectiveBackprop(keep=0.25, warmup=EPOCHS),
    "warming up, scored": lambda: SelectiveBackprop(keep=0.25, scoring=ScoringPass(), warmup=EPOCHS),
}


@pytest.fixture
def module() -> Any:
    return Nosy


_plain: dict[Any, Any] = {}


@pytest.fixture
def plain(kit: Any, capsys: Any, tmp_path_factory: Any, module: Any) -> Any:
    """Where training without selection kept its checkpoints and what was seen of it; run once for all tests."""
    key = kit.pl.__name__, module
    if key not in _plain:
        folder = tmp_path_factory.mktemp("plain")
        _plain[key] = folder, observe(kit, capsys, folder, module=module)
    return _plain[key]


@pytest.mark.parametrize("module", [Nosy, NosyByHand])
@pytest.mark.parametrize("name", SELECT_ALL)
def test_training_is_bit_identical(kit: Any, capsys: Any, plain: Any, module: Any, name: str) -> None:
    if kit.pl.__name__ == "lightning.pytorch" and name not in ("KeepAll", "TopLoss"):
        pytest.skip("run in one of the packages, to save time")
    folder, expected = plain
    assert differences(expected, observe(kit, capsys, folder, SELECT_ALL[name](), module=module)) == []


def test_refilling_from_full_batches_is_bit_identical(solo: Any, capsys: Any, tmp_path: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=1.0), refill=True)
    expected = observe(solo, capsys, tmp_path, rows=80)
    assert differences(expected, observe(solo, capsys, tmp_path, callback, rows=80)) == []


# ---------------------------------------------------------------------- every guard is needed


def nothing(*_: Any, **__: Any) -> Any:
    """In place of a guard: puts nothing back."""
    return lambda: None


def without_stream(index: int) -> Any:
    """The guard of the random streams, but for one of them."""
    original = no_trace._random_streams
    return lambda *given: [restore for i, restore in enumerate(original(*given)) if i != index]


def unless(forgotten: Any) -> Any:
    """The guard of attributes, but for those of some modules."""
    original = no_trace._attributes
    return lambda modules, *given: original([module for module in modules if not forgotten(module)], *given)


def set_for_good(modules: Any, training: Any) -> Any:
    """The guard of flags, but for putting them back."""
    no_trace._put(modules, [training] * len(modules))
    return nothing()


def is_metric(module: nn.Module) -> bool:
    return isinstance(module, Metric)


def is_outermost(module: nn.Module) -> bool:
    return isinstance(module, Nosy)


def loud(*names: str, loggers: bool = False) -> Any:
    """`quiet`, but for some methods or the loggers."""
    original = quiet_module.quiet

    @contextmanager
    def guard(trainer: Any, module: Any) -> Any:
        real = trainer.loggers
        with original(trainer, module):
            muted = {name: vars(module).pop(name) for name in names}
            if loggers:
                trainer.loggers = real
            try:
                yield
            finally:
                vars(module).update(muted)

    return guard


GUARDS = {
    "flags": (Nosy, "eval", no_trace, "_flags", set_for_good, "/weights"),
    "buffers in eval mode": (Nosy, "eval", no_trace, "_buffers", nothing, "/weights and buffers/average"),
    "buffers in train mode": (Nosy, "train", no_trace, "_buffers", nothing, "/weights and buffers/net.1.running_mean"),
    "metrics in eval mode": (
        Nosy,
        "eval",
        no_trace,
        "_attributes",
        unless(is_metric),
        "/callback_metrics/metric_epoch",
    ),
    "metrics in train mode": (Nosy, "train", no_trace, "_attributes", unless(is_metric), "/callback_metrics/total"),
    "attributes": (Nosy, "eval", no_trace, "_attributes", unless(is_outermost), "/attributes"),
    "torch's stream": (Nosy, "eval", no_trace, "_random_streams", without_stream(0), "/random streams/torch"),
    "numpy's stream": (Nosy, "eval", no_trace, "_random_streams", without_stream(1), "/random streams/numpy"),
    "python's stream": (Nosy, "eval", no_trace, "_random_streams", without_stream(2), "/random streams/python"),
    "gradients": (NosyByHand, "eval", no_trace, "_gradients", nothing, "/callback_metrics/last_gradient"),
    "loggers": (Nosy, "eval", scorer, "quiet", loud(loggers=True), "/rows"),
    "self.log": (
        Nosy,
        "eval",
        scorer,
        "quiet",
        loud("log", "log_dict"),
        "You are trying to `self.log()` but",
    ),
    "self.print": (Nosy, "eval", scorer, "quiet", loud("print"), "/printed"),
    "backward by hand": (NosyByHand, "eval", scorer, "quiet", loud("manual_backward"), "/hooks"),
}


@pytest.mark.parametrize("kit", ["pytorch_lightning"], indirect=True)
@pytest.mark.parametrize(("module", "mode", "owner", "name", "broken", "where"), GUARDS.values(), ids=GUARDS)
def test_identity_breaks_without_the_guard(
    kit: Any,
    capsys: Any,
    plain: Any,
    module: Any,
    monkeypatch: Any,
    mode: Any,
    owner: Any,
    name: str,
    broken: Any,
    where: str,
) -> None:
    folder, expected = plain
    monkeypatch.setattr(owner, name, broken)
    callback = ExampleSelection(TopLoss(keep=1.0), scoring=ScoringPass(mode=mode, check=False))
    try:
        found = differences(expected, observe(kit, capsys, folder, callback, module=module))
    except Exception as error:  # Lightning's: no hook runs that could log
        found = [str(error)]
    assert any(path.startswith(where) for path in found), found
