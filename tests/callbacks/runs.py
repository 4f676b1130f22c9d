"""Training runs that can be broken off and resumed, in which everything shows that goes wrong."""

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytorch_lightning as pl
import torch
from packaging.version import Version
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from litselect.callbacks import DataRater, ExampleSelection, SelectiveBackprop
from litselect.callbacks.score_plan import REMEMBERED
from litselect.scoring import ScoringPass
from litselect.selectors import KeepAll, LossPercentile, RatedSubset, TopLoss
from tests.callbacks.kit import clone, seed_streams
from tests.selectors.registry import CASES

ROWS, BATCH, EPOCHS = 37, 8, 3  # five batches an epoch, the last of them short

# ---------------------------------------------------------------------- what is trained


class Noisy(Dataset[Any]):
    """Examples that are augmented from all three random streams."""

    def __init__(self, rows: int = ROWS) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(rows, 6, generator=generator)
        self.y = (self.x[:, 0] > 0).long() + (self.x[:, 1] > 1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        noise = 0.1 * torch.randn(6) + 0.1 * float(np.random.randn()) + 0.01 * random.random()  # noqa: NPY002
        return self.x[i] + noise, self.y[i], i


class Resumable:
    """A loader that can be set to a place within an epoch.

    Args:
        finishes: whether a loader that is set to the end of an epoch delivers the next one, or nothing.
    """

    def __init__(self, dataset: Any, rank: int = 0, finishes: bool = False, batch_size: int | None = BATCH) -> None:
        self.dataset, self.rank, self.finishes, self.batch_size = dataset, rank, finishes, batch_size
        self.epoch, self.done, self.resumed = -1, 0, False

    def __len__(self) -> int:
        return -(-len(self.dataset) // BATCH)

    def __iter__(self) -> Iterator[Any]:
        if self.resumed and not (self.finishes and self.done == len(self)):
            first = self.done
        else:
            first = self.done = 0
            self.epoch += 1
        self.resumed = False
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(9 * self.epoch + self.rank))
        return self._batches(order.tolist(), first)

    def _batches(self, order: list[int], first: int) -> Iterator[Any]:
        for place in range(first, len(self)):
            self.done = place + 1
            yield default_collate([self.dataset[i] for i in order[place * BATCH : (place + 1) * BATCH]])

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.done, self.resumed = state["epoch"], state["done"], True


class LikeTorchdata(DataLoader[Any]):
    """As torchdata's StatefulDataLoader: seeded once from the global stream, of which every iterator draws too."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.order, self.place, self.loaded = torch.Generator(), 0, False

    def __iter__(self) -> Iterator[Any]:
        torch.randint(1 << 40, ())  # every iterator draws a seed
        if not self.loaded:
            if self.place == 0:
                self.order.manual_seed(int(torch.randint(1 << 40, ())))
            self.start, self.place = self.order.get_state(), 0
        self.loaded = False
        self.order.set_state(self.start)
        order = torch.randperm(len(self.dataset), generator=self.order).tolist()
        return self._batches(order, self.place)

    def _batches(self, order: list[int], first: int) -> Iterator[Any]:
        for place in range(first, len(self)):
            self.place = place + 1
            yield default_collate([self.dataset[i] for i in order[place * BATCH : (place + 1) * BATCH]])

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start, self.place, self.loaded = state["start"], state["place"], True


class Net(pl.LightningModule):
    def __init__(self, norm: bool = True, hooks: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 12),
            nn.BatchNorm1d(12) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(12, 3),
        )
        self.hooks = hooks
        self.steps: list[list[int]] = []  # the examples of every training step

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        if torch.is_grad_enabled():
            self.steps.append(ids.tolist())
        x = x + 0.05 * torch.randn_like(x) + 0.01 * float(np.random.rand()) + 0.01 * random.random()  # noqa: NPY002
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", nn.functional.cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

    def on_train_start(self) -> None:
        if self.hooks:
            torch.randn(3)

    def on_train_epoch_start(self) -> None:
        if self.hooks:
            torch.randn(2), random.random()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.7), "interval": "step"}]


class NetWithEnds(Net):
    """Draws when an epoch ends, too."""

    def on_train_epoch_end(self) -> None:
        torch.randn(2)


# ---------------------------------------------------------------------- how it is selected


PROVIDED = {"losses", "logits", "targets", *REMEMBERED}  # what `ExampleSelection` gives to a selector
KEEP = 0.4


def judges() -> DataLoader[Any]:
    """Held-out examples for a rater, augmented and in an order that changes."""
    return DataLoader(Noisy(20), batch_size=7, shuffle=True)


def ids_of(batch: Any) -> torch.Tensor:
    """Where a batch of `Noisy` holds the ids of its examples."""
    return batch[2]


class Proxy(nn.Module):
    """A small network, with dropout of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 3))

    def example_losses(self, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1], reduction="none")


def by_proxy() -> ScoringPass:
    """Scores of a proxy that is trained alongside."""
    proxy = Proxy()
    return ScoringPass(proxy=proxy, proxy_optimizer=torch.optim.SGD(proxy.parameters(), 0.2, momentum=0.9))


SELECTORS = {case.name: case.make for case in CASES if case.make(KEEP, None).needs <= PROVIDED}
"""Every public selector that it can serve."""

SELECTIONS: dict[str, Callable[[], ExampleSelection]] = {
    "Selective-Backprop": lambda: SelectiveBackprop(keep=0.4, history=20, warmup=0),
    "refill": lambda: SelectiveBackprop(keep=0.4, refill=True, warmup=0),
    "refill with top losses": lambda: ExampleSelection(TopLoss(0.4), refill=True),
    "independent draws": lambda: ExampleSelection(LossPercentile(0.3, fixed_size=False)),
    "warming up": lambda: SelectiveBackprop(keep=0.4, scoring=ScoringPass(), warmup=1.5),
    "default": lambda: SelectiveBackprop(keep=0.4, ids=ids_of),
    "default without ids": lambda: SelectiveBackprop(keep=0.4),  # remembers losses with a plain loader alone
    "across ranks": lambda: ExampleSelection(LossPercentile(0.4), across_ranks=True, warmup=0.5),
    "ledger": lambda: SelectiveBackprop(keep=0.4, scoring="ledger", floor=0.1, ids=ids_of),
    "ledger, refill": lambda: SelectiveBackprop(keep=0.4, scoring="ledger", refill=True, ids=ids_of),
    "stale scores": lambda: SelectiveBackprop(keep=0.4, rescore_every=3, warmup=0, ids=ids_of),
    "every other batch": lambda: SelectiveBackprop(keep=0.4, scoring=ScoringPass(every=2), ids=ids_of),
    "a proxy that learns": lambda: SelectiveBackprop(keep=0.4, scoring=by_proxy()),
    "ages": lambda: SelectiveBackprop(keep=0.4, max_age=1, ids=ids_of),
    "ratings": lambda: ExampleSelection(RatedSubset(0.4), ratings=torch.linspace(-1, 1, ROWS), ids=ids_of),
    "a live rater": lambda: DataRater(heldout=judges(), keep=0.4, every=2, trust_after=2, rater_warmup=1),
    "none": lambda: ExampleSelection(KeepAll()),
}


def selection(name: str) -> ExampleSelection:
    """One of `SELECTIONS`, or one of `SELECTORS`, whose seed follows from that of the run."""
    return SELECTIONS[name]() if name in SELECTIONS else ExampleSelection(SELECTORS[name](KEEP, None), ids=ids_of)


# ---------------------------------------------------------------------- one run

SAVES: dict[str, dict[str, Any]] = {
    "epoch end": {"save_on_train_epoch_end": True},
    "validation end": {"save_on_train_epoch_end": False, "validate": True},
    "epoch end, validating": {"save_on_train_epoch_end": True, "validate": True},
    "within the epoch": {"every_n_train_steps": 1, "loader": "resumable"},
    "within the epoch, loader that finishes": {"every_n_train_steps": 1, "loader": "finishing"},
    "epoch end, resumable loader": {"save_on_train_epoch_end": True, "loader": "resumable"},
    "epoch end, loader that finishes": {"save_on_train_epoch_end": True, "loader": "finishing"},
    "epoch end, loader like torchdata's": {"save_on_train_epoch_end": True, "loader": "torchdata"},
    "within the epoch, loader like torchdata's": {"every_n_train_steps": 1, "loader": "torchdata"},
    "within the epoch, validating": {"every_n_train_steps": 1, "loader": "resumable", "validate": True},
    "within the epoch, plain loader": {"every_n_train_steps": 3},
    "validation within the epoch": {
        "save_on_train_epoch_end": False, "validate": True, "loader": "resumable", "val_check_interval": 2,
    },
}  # fmt: skip


ADVICE = (
    "You defined a `validation_step` but have no `val_dataloader`",
    "The '\\w+_dataloader' does not have many workers",
    "Found \\d+ module.s. in eval mode",
    "Checkpoint directory .* exists and is not empty",
    "The dirpath has changed",
    "It is recommended to use .self.log.* when logging on epoch level in distributed setting",
    "You're resuming from a checkpoint that ended before the epoch",
    "This process .* is multi-threaded",
    ".isinstance.treespec, LeafSpec.. is deprecated",
)
"""What Lightning, torch and Python say about the settings of these runs."""


def train(
    folder: str | Path,
    name: str,
    save: str = "epoch end",
    *,
    resume: str | Path | None = None,
    workers: int = 0,
    world: int = 1,
    epochs: int = EPOCHS,
    norm: bool = True,
    hooks: bool = False,
    progress: Any = None,
    callback: ExampleSelection | None = None,
    save_last: bool = False,
    batch_size: int | None = BATCH,
    more: Sequence[Any] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Train with selection `name`, with checkpoints into `folder` at every `save`; answer with all that must be equal.

    The streams of a resumed run begin elsewhere, so that nothing is equal by chance.
    """
    for package in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(package).setLevel(logging.ERROR)
    pl.seed_everything(5, verbose=False)  # also the seed of Lightning's DistributedSampler, which no checkpoint holds
    if resume:
        seed_streams(77)
    how = dict(SAVES[save])
    validate, loader = how.pop("validate", False), how.pop("loader", "plain")
    interval = how.pop("val_check_interval", 1.0)
    module, ours = Net(norm, hooks), callback or selection(name)
    checkpoints = pl.callbacks.ModelCheckpoint(folder, "{epoch}-{step}", save_top_k=-1, save_last=save_last, **how)
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[ours, checkpoints, *more, *([Progress(progress)] if progress else [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        num_sanity_val_steps=0,
        val_check_interval=interval,
        use_distributed_sampler=loader == "plain",
        **settings,
    )
    data = Noisy()
    if loader == "plain":
        loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers)
    elif loader == "torchdata":
        loader = LikeTorchdata(data, BATCH)
    else:
        loader = Resumable(data, trainer.global_rank, loader == "finishing", batch_size)
    val = DataLoader(data, 16) if validate else None
    with warnings.catch_warnings():
        for advice in ADVICE:
            warnings.filterwarnings("ignore", advice)
        with running_no_code():
            trainer.fit(module, loader, val, ckpt_path=resume)
    return outcome(trainer, module, ours)


def running_no_code() -> contextlib.AbstractContextManager[Any]:
    """Inside, no checkpoint runs code: Lightning 2.6 sees to that, 2.5 must be told (docs/compatibility.md)."""
    told = Version(pl.__version__) < Version("2.6")
    return mock.patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"} if told else {})


def outcome(trainer: Any, module: Any, ours: ExampleSelection) -> dict[str, Any]:
    """All that a run which was broken off and resumed must have in common with one that was not."""
    counters = {name: value for name, value in vars(ours.counters).items() if not name.endswith("seconds")}
    return clone(
        {
            "weights": dict(module.state_dict()),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "steps": [trainer.global_step, trainer.fit_loop.epoch_loop._batches_that_stepped],
            "counters": counters,
            "selector": ours.selector.state_dict(),
            "queue": ours.queue.state_dict(),
            "ledger": None if ours.ledger is None else ours.ledger.state_dict(),
            "streams": [torch.get_rng_state(), list(np.random.get_state()[1:3]), list(random.getstate())],  # noqa: NPY002
        }
    )


class Progress(pl.Callback):
    """Tells a pipe of every batch that is done."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.pipe.send(trainer.fit_loop.epoch_loop.total_batch_idx)


def checkpoints(folder: str | Path) -> list[Path]:
    """Those in `folder`, oldest first."""
    return sorted(Path(folder).glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
