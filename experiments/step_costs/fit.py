"""One training through the Trainer."""

from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.data.rows import unchanged
from experiments.step_costs.learner import Batch, Learner


class Columns(Dataset[Any]):
    """Rows that lie in memory, fetched a batch at a time."""

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> Batch:
        return [column[index] for column in self.columns]

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of the rows `indices`; the DataLoader prefers this to `__getitem__`."""
        rows = torch.tensor(indices)
        return [column[rows] for column in self.columns]


def fit(
    learner: Learner,
    data: Dataset[Any],
    rows: int,
    callbacks: list[Callback],
    *,
    device: str,
    precision: str,
    epochs: int = 1,
    shuffle: bool = False,
) -> None:
    """Trains.

    Args:
        learner: what is trained.
        data: of an epoch; an incomplete batch at its end is left out.
        rows: of a batch.
        callbacks: in this order.
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16".
        epochs: how many.
        shuffle: whether the order is drawn anew for each epoch.
    """
    whole = unchanged if hasattr(data, "__getitems__") else None
    loader: DataLoader[Any] = DataLoader(data, rows, shuffle=shuffle, drop_last=True, collate_fn=whole)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, loader)
