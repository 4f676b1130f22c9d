"""What the tests of the callbacks share: modules at home in either package, loggers that remember, exact comparison."""

import functools
import random
import sys
import warnings
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

WIDTH, CLASSES = 5, 3


class Notes(list):
    """A list that the scoring pass does not put back: it shows what really happened."""


class Classifier:
    """A plain linear classifier of batches ``(x, y, ids)`` that notes the rows of every step."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Linear(WIDTH, CLASSES)
        self.lr = lr
        self.steps = Notes()  # ids of each training step on a graph
        self.passes = Notes()  # number of rows of each scoring pass

    def note(self, ids: Any) -> None:
        ids = ids.tolist()
        if torch.is_grad_enabled():
            self.steps.append(ids)
        else:
            self.passes.append(len(ids))

    def losses(self, batch: Any) -> torch.Tensor:
        x, y, _ = batch
        return F.cross_entropy(self.net(x), y, reduction="none")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Validated(Classifier):
    """The same with a validation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.losses(batch).mean())


class Changing(Classifier):
    """Takes its batch apart, or writes to it."""

    def __init__(self, how: Literal["pops", "writes"]) -> None:
        super().__init__()
        self.how = how
        self.means = Notes()  # of the inputs of each step on a graph, as they came

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        if torch.is_grad_enabled():
            self.means.append(x.mean().item())
        if self.how == "pops":
            batch.clear()
        else:
            x.sub_(100)
        return F.cross_entropy(self.net(x), y)


class Kit:
    """One of the two packages and what the tests make with it."""

    def __init__(self, package: ModuleType) -> None:
        self.pl = package

    def make(self, mixin: type, *args: Any, **kwargs: Any) -> Any:
        """An instance of `mixin` as a LightningModule of this package, the same for the same seed."""
        torch.manual_seed(1)
        return _at_home(mixin, self.pl.LightningModule)(*args, **kwargs)

    def callback(self, mixin: type, *args: Any, **kwargs: Any) -> Any:
        """An instance of `mixin` as a Callback of this package."""
        return _at_home(mixin, self.pl.Callback)(*args, **kwargs)

    def logger(self) -> Any:
        return _at_home(ListLogger, self.pl.loggers.logger.Logger)()

    def checkpoint_io(self) -> Any:
        return _at_home(CheckpointsInMemory, self.pl.plugins.CheckpointIO)()

    def trainer(self, *callbacks: Any, **settings: Any) -> Any:
        """A silent Trainer on the CPU."""
        settings.setdefault("max_epochs", 1)
        settings.setdefault("enable_checkpointing", False)
        settings.setdefault("logger", False)
        settings.setdefault("log_every_n_steps", 1)
        return self.pl.Trainer(
            accelerator="cpu",
            devices=1,
            callbacks=list(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )

    def fit(self, module: Any, *callbacks: Any, data: Any = None, **settings: Any) -> Any:
        """Fit `module`, answer with the Trainer."""
        trainer = self.trainer(*callbacks, **settings)
        trainer.fit(module, loader() if data is None else data)
        return trainer


@functools.cache
def _at_home(mixin: type, base: type) -> type:
    home = sys.modules[mixin.__module__]
    name = f"{mixin.__name__}_{base.__module__.partition('.')[0]}"
    bound = type(name, (mixin, base), {"__module__": mixin.__module__})
    setattr(home, name, bound)  # so that pickle finds it
    return bound


class ListLogger:
    """Remembers the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    name, version = "list", 0

    @property
    def experiment(self) -> Any:
        return self

    def write(self, **values: float) -> None:
        """A method that only this logger has, as the experiment objects of real loggers do."""
        self.rows.append((None, values))

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class CheckpointsInMemory:
    """Keeps the checkpoints, by the name of their file."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: dict[str, Any] = {}

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.saved[str(path)] = clone(checkpoint)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        return clone(self.saved[str(path)])

    def remove_checkpoint(self, path: Any) -> None:
        self.saved.pop(str(path), None)


# ---------------------------------------------------------------------- data


def rows(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(x, y, ids)`` of `n` examples."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, WIDTH, generator=g)
    y = torch.randint(CLASSES, (n,), generator=g)
    return x, y, torch.arange(n)


def loader(n: int = 32, batch_size: int = 8, **settings: Any) -> Any:
    """A DataLoader of `n` examples in order."""
    return DataLoader(TensorDataset(*rows(n)), batch_size=batch_size, **settings)


def easy(n: int) -> TensorDataset:
    """Examples that a few steps teach for good, with their ids."""
    labels = torch.arange(n) % CLASSES
    return TensorDataset(10 * F.one_hot(labels, WIDTH).float(), labels, torch.arange(n))


def loader_of(batches: list[Any]) -> Any:
    """A DataLoader that yields these very batches."""
    return DataLoader(batches, batch_size=None, collate_fn=_same)


def _same(batch: Any) -> Any:
    return batch


# ---------------------------------------------------------------------- exact comparison


def clone(value: Any) -> Any:
    """A copy that later training does not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clone(item) for item in value]
    return value


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nests of tensors and values differ, bit for bit (NaN equals NaN)."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(bits(one), bits(other))
        return [] if same else [path]
    if isinstance(one, np.ndarray):
        return [] if np.array_equal(one, other) else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        found = [f"{path}/{key}" for key in one.keys() ^ other.keys()]
        for key in [key for key in one if key in other]:
            found += differences(one[key], other[key], f"{path}/{key}")
        return found
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [f"{path} (length {len(one)} and {len(other)})"]
        return [
            found for i, (a, b) in enumerate(zip(one, other, strict=True)) for found in differences(a, b, f"{path}/{i}")
        ]
    if isinstance(one, float) and isinstance(other, float) and one != one and other != other:
        return []
    return [] if type(one) is type(other) and one == other else [path]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` as bytes."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor


def random_streams() -> dict[str, Any]:
    """Where the global random streams are."""
    return {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1:3],  # noqa: NPY002 - users draw from it
        "python": random.getstate(),
    }


def seed_streams(seed: int = 3) -> None:
    """Begin the global random streams anew."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - users draw from it
    random.seed(seed)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of parameters and buffers."""
    return clone(dict(module.state_dict()))


def quietly(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call with warnings off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)
