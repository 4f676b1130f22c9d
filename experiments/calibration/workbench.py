"""The pieces of a training, each by itself."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from experiments import flops
from experiments.build import build
from experiments.data import ImageData
from experiments.data.rows import Batch
from experiments.lightning_manners import quiet
from experiments.threads import threads
from litselect.scoring import ScoringPass
from litselect.scoring.no_trace import TraceMemory
from litselect.scoring.rows import take_rows
from litselect.selectors import LossPercentile

Call = Callable[[], object]


class Workbench:
    """Runs the steps of a run's network on a batch of its data, and leaves the run's random streams as they are.

    Args:
        config: of the run.
        data: of the run.

    Attributes:
        rows: the most that go through the network at once.
        settings: what the measurements are about.
    """

    def __init__(self, config: DictConfig, data: ImageData) -> None:
        source = data.source
        self.data = data.training_on(data.train)
        self.rows = source.most_rows
        _, channels, _, size = data.train.pixels.shape
        with torch.random.fork_rng():
            net = build(config, "model", channels=channels, size=size, classes=data.train.classes)
        self.operations = flops.count(net, channels, size)
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        precision = str(config.trainer.get("precision", "32-true"))
        self._autocast: Any = contextlib.nullcontext
        if precision in ("bf16-mixed", "16-mixed"):
            dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
            self._autocast = lambda: torch.autocast(self._device.type, dtype)
        cuda = torch.cuda.is_available() and config.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
        self._device = torch.device("cuda" if cuda else "cpu")
        self._net: torch.nn.Module = net.to(self._device).to(memory_format=self._layout)
        self._optimizer = build(config, "optimizer")(self._net.parameters())
        self._threads: int | str = config.threads
        self.data.trainer = SimpleNamespace(  # type: ignore[assignment] - all that augmentation asks a Trainer
            training=True, strategy=SimpleNamespace(root_device=self._device)
        )
        self._loader = self.data.train_dataloader()
        self._batch = self._loaded(self.rows)
        self.settings = {
            "model": OmegaConf.to_container(config.model, resolve=True),
            "optimizer": config.optimizer._target_,
            "precision": precision,
            "channels_last": config.channels_last,
            "image": list(data.train.pixels.shape[1:]),
            "classes": data.train.classes,
        }

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, threads are those of the run."""
        with quiet(), threads(self._threads, self.rows * self.operations.training):
            yield

    def clock(self) -> Callable[[], float]:
        """What tells seconds: on one processor thread its own time, which busy neighbours disturb less."""
        return time.process_time if self._device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def load(self, rows: int) -> Call:
        """Fetches and augments rows."""
        return lambda: self._wait(self._loaded(rows))

    def train(self, rows: int) -> Call:
        """A training step: forward, backward, optimizer."""
        return self._training(self._net, self._optimizer, rows)

    def proxy(self, scoring: ScoringPass) -> Callable[[int], Call]:
        """A training step of a copy of the network that scores: in full precision, as it is done."""
        proxy = copy.deepcopy(scoring.proxy)
        assert proxy is not None
        optimizer = torch.optim.SGD(proxy.to(self._device).parameters(), lr=1e-3, momentum=0.9)
        return lambda rows: self._training(proxy, optimizer, rows, plain=True)

    def score(self, scoring: ScoringPass) -> Callable[[int], Call]:
        """A scoring pass, losses captured."""
        scoring, memory = copy.deepcopy(scoring), TraceMemory()

        def of(rows: int) -> Call:
            batch = take_rows(self._batch, torch.arange(rows))

            def call() -> object:
                with self._autocast():
                    return self._wait(scoring.examine(self._net, batch, rows, step=self._loss, memory=memory))

            return call

        return of

    def select(self, rows: int) -> Call:
        """A draw of half of the rows by their ranks in a history of losses, and their gathering."""
        selector = LossPercentile(keep=0.5, seed=0)
        batch = take_rows(self._batch, torch.arange(rows))
        losses = torch.linspace(0, 1, rows, device=self._device)
        return lambda: self._wait(take_rows(batch, selector(losses=losses).indices, rows))

    def _training(self, net: torch.nn.Module, optimizer: torch.optim.Optimizer, rows: int, plain: bool = False) -> Call:
        batch = take_rows(self._batch, torch.arange(rows))
        layout, context = (torch.contiguous_format, contextlib.nullcontext) if plain else (self._layout, self._autocast)

        def call() -> object:
            net.train()
            optimizer.zero_grad()
            with context():
                loss = F.cross_entropy(net(batch["image"].contiguous(memory_format=layout)), batch["label"])
            loss.backward()
            optimizer.step()
            return self._wait(loss)

        return call

    def _loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self._net(batch["image"].contiguous(memory_format=self._layout)), batch["label"])

    def _loaded(self, rows: int) -> Batch:
        fetch: Any = self._loader.dataset
        batch = fetch.__getitems__(torch.randint(len(fetch), (rows,), generator=self._draw()).tolist())
        batch = {key: value.to(self._device) for key, value in batch.items()}
        return self.data.on_after_batch_transfer(batch, 0)

    @staticmethod
    def _draw() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def _wait(self, result: object) -> object:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return result
