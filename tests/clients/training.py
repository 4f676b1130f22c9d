"""Trains a module that no one here wrote, and looks at it from outside."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.callbacks.quiet import quiet
from litselect.scoring.no_trace import NoTrace
from litselect.scoring.rows import count_rows, take_rows
from litselect.selectors import Selection, Selector

KEEP = 1 / 3


class TrainedRows:
    """Notes how many rows pass through a network while gradients are on: what is really trained.

    Args:
        network: the part of a client that every row passes once.
        rows: the number of rows, given the network's arguments; by default the length of the first.
    """

    def __init__(self, network: nn.Module, rows: Callable[..., int] | None = None) -> None:
        self.seen: list[int] = []
        self._rows = rows or (lambda *args, **kwargs: len(next(iter((*args, *kwargs.values())))))
        network.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.is_grad_enabled():
            self.seen.append(self._rows(*args, **kwargs))


def fit(module: Any, data: Any, *callbacks: Any, epochs: int = 2) -> None:
    """Train without a trace on the disk."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)


def trains_exactly_k(
    module: Any, data: DataLoader, network: nn.Module, rows: Callable[..., int] | None = None, **settings: Any
) -> SelectiveBackprop:
    """Train two epochs and assert what must hold for every client: k rows a step, weights that move, true counters."""
    trained = TrainedRows(network, rows)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    callback = SelectiveBackprop(keep=KEEP, warmup=0, seed=0, **settings)
    fit(module, data, callback)

    sizes = 2 * [count_rows(batch) for batch in data]
    expected = [max(1, round(KEEP * n)) for n in sizes]
    assert trained.seen == expected
    assert callback.counters.seen == callback.counters.scored == sum(sizes)
    assert callback.counters.trained == sum(expected)
    assert callback.counters.steps == len(sizes)
    moved = [not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True)]
    assert any(moved)
    return callback


class _NoteLosses(Selector):
    """Keeps everything and remembers the losses of the first batch."""

    def __init__(self) -> None:
        super().__init__(keep=1.0)
        self.losses: torch.Tensor | None = None

    def select(self, k: int, *, losses: torch.Tensor) -> Selection:  # type: ignore[override]
        self.losses = losses if self.losses is None else self.losses
        return Selection.of(torch.arange(k))


class _OneByOne(Callback):
    """The truth: the client's own loss of each row of the first batch, as a batch of that row alone."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.losses:
            return
        for i in range(count_rows(batch)):
            with torch.no_grad(), NoTrace(pl_module), quiet(trainer, pl_module):
                output = pl_module.training_step(take_rows(batch, torch.tensor([i])), batch_idx)
            self.losses.append(float(output["loss"] if isinstance(output, dict) else output))


def scores_are_losses_of_single_rows(module: Any, data: DataLoader, factor: float = 1.0, **settings: Any) -> None:
    """Assert that the scores of the first batch, times `factor`, are what the client says of each row alone."""
    scores, alone = _NoteLosses(), _OneByOne()
    fit(module, data, alone, ExampleSelection(scores, **settings), epochs=1)
    assert scores.losses is not None
    torch.testing.assert_close(factor * scores.losses, torch.tensor(alone.losses), rtol=1e-3, atol=1e-5)
    assert scores.losses.unique().numel() > 1
