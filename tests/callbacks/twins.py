"""Two trainings that differ in nothing but our callback, compared to the bit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from litselect.callbacks import ExampleSelection
from litselect.selectors import KeepAll, TopLoss
from tests.callbacks.kit import CLASSES, WIDTH, Notes, clone, differences, loader, random_streams, seed_streams

SELECT_ALL: dict[str, Callable[[], Any]] = {
    "unscored": lambda: ExampleSelection(KeepAll()),
    "scored": lambda: ExampleSelection(TopLoss(keep=1.0)),
}


class Net:
    """Dropout, noise, batch statistics, a validation loss: what a trace of ours would show in."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES)
        )
        self.steps, self.passes, self.dtypes = Notes(), Notes(), Notes()

    def loss(self, batch: Any) -> torch.Tensor:
        x, y, ids = batch
        logits = self.net(x + 0.1 * torch.randn_like(x))
        self.dtypes.append((torch.is_grad_enabled(), logits.dtype))
        (self.steps if torch.is_grad_enabled() else self.passes).append(ids.tolist())
        return F.cross_entropy(logits, y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


class ByHand(Net):
    """Manual optimization with one optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss, on_step=True, on_epoch=True)


def without(row: dict[str, Any]) -> dict[str, Any]:
    """What remains beside the keys of ours."""
    return {key: clone(value) for key, value in row.items() if not key.startswith("select/")}


Settings = Callable[[Any], dict[str, Any]]
"""Trainer settings, made anew for every training; called with the kit. ``callbacks`` are other people's."""


def nothing(_: Any) -> dict[str, Any]:
    """No settings."""
    return {}


def observe(
    kit: Any, module: type, *ours: Any, settings: Settings = nothing, data: Any = None, last: bool = False
) -> dict[str, Any]:
    """Train two epochs of five batches and answer with all that can be seen of it.

    Args:
        kit: the package.
        module: the class of the module.
        ours: callbacks that the twin does not have.
        settings: of the Trainer.
        data: makes the loader.
        last: whether ours come behind the callbacks of the settings.
    """
    seed_streams()
    net, logger = kit.make(module), kit.logger()
    seed_streams()
    options = {"max_epochs": 2, "log_every_n_steps": 2, "logger": [logger], **settings(kit)}
    others = options.pop("callbacks", [])
    trainer = kit.trainer(*([*others, *ours] if last else [*ours, *others]), **options)
    trainer.fit(net, loader(38, 8, shuffle=True) if data is None else data(), loader(8))
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return {
        "weights": clone(dict(net.state_dict())),
        "gradients": [clone(p.grad) for p in net.parameters()],
        "flags": [*(p.requires_grad for p in net.parameters()), *(part.training for part in net.modules())],
        "optimizers": [clone(optimizer.state_dict()) for optimizer in trainer.optimizers],
        "schedulers": [clone(c.scheduler.state_dict()) for c in trainer.lr_scheduler_configs],
        "scaler": None if scaler is None else scaler.state_dict(),
        "random streams": random_streams(),
        "rows": [(step, without(row)) for step, row in logger.rows],
        "callback_metrics": without(trainer.callback_metrics),
        "progress_bar_metrics": without(trainer.progress_bar_metrics),
        "trained": list(net.steps),
        "progress": [trainer.global_step, trainer.current_epoch, trainer.fit_loop.total_batch_idx],
        "net": net,
        "trainer": trainer,
    }


def unlike(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Where two observations differ."""
    objects = {"net", "trainer", "callback"}
    strip = [{name: value for name, value in seen.items() if name not in objects} for seen in (one, other)]
    return differences(*strip)


def assert_identical(kit: Any, module: type, **how: Any) -> dict[str, Any]:
    """Training with all rows kept, scored or not, is what it is without us; answers with the plain observation."""
    plain = observe(kit, module, **how)
    assert len(plain["trained"]) > 0
    for name, make in SELECT_ALL.items():
        callback = make()
        seen = observe(kit, module, callback, **how)
        assert unlike(plain, seen) == [], name
        assert callback.counters.seen == callback.counters.trained > 0
        assert (callback.counters.scored > 0) == (len(seen["net"].passes) > 0) == (name == "scored")
    return plain


def halved(kit: Any, module: type, *, keep: float = 0.5, **how: Any) -> dict[str, Any]:
    """Training on half of the rows: of every batch, those of the highest loss; answers with the observation."""
    callback = ExampleSelection(TopLoss(keep=keep))
    seen = observe(kit, module, callback, **how)
    assert all(value.isfinite().all() for value in seen["weights"].values())
    seen["callback"] = callback
    return seen
