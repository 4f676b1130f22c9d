"""Which labels a rated selection keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from litselect.callbacks.ratings import labels_of

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from litselect.callbacks.example_selection import ExampleSelection
    from litselect.selectors import Selection

_SHOWN: Final = 20  # classes that get a column each


def meet_data(callback: ExampleSelection, trainer: Trainer, device: torch.device) -> None:
    """Move ratings to `device`; check a table against the data set, and look there for labels that won't be loaded.

    Raises:
        ValueError: if the table is of another data set.
    """
    if callback.ratings is None:
        return
    callback.ratings.place(device)
    dataset: Any = getattr(trainer.train_dataloader, "dataset", None)
    if callback.memory is None or dataset is None:
        return
    if callback.ratings.by_id and hasattr(dataset, "__len__"):
        callback.ratings.check(len(dataset))
    labels = labels_of(dataset) if hasattr(dataset, "__len__") else None
    if labels is not None and int(labels.max()) < 2**31 and callback.memory.labels is None:
        callback.memory.labels = labels.to(torch.int32)


def load_rated(callback: ExampleSelection, state: dict[str, Any]) -> None:
    """Let ratings and the histogram go on from a rank's part of a checkpoint."""
    callback.kept_labels.load_state_dict(state["kept_labels"])
    if callback.ratings is not None and state["ratings"]:
        callback.ratings.load_state_dict(state["ratings"])


def count_kept(
    callback: ExampleSelection, known: dict[str, Any], ids: Tensor | None, selection: Selection, candidates: int
) -> None:
    """Count the classes of the candidates and of those that were kept; nothing where labels are not known."""
    labels, memory = known.get("targets"), callback.memory
    if labels is not None and len(labels) != candidates:  # rows were chosen before they were loaded
        labels = None
    if labels is None and ids is not None and memory is not None and memory.labels is not None:
        labels = memory.labels.to(ids.device)[ids]
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return
    kept = torch.zeros(candidates, device=labels.device)
    callback.kept_labels.update(labels, kept.index_fill(0, selection.indices.to(labels.device), 1.0))
    callback.kept_labels.warn()


def kept_columns(callback: ExampleSelection) -> dict[str, Tensor]:
    """What each class gets relative to its share, for the log; of more than twenty the least alone."""
    ratios = callback.kept_labels.ratios()
    met = ~ratios.isnan()
    if not met.any():
        return {}
    columns = {"kept_label_least": ratios[met].amin().float()}
    if len(ratios) <= _SHOWN:
        columns.update({f"kept_label_{label}": ratios[label].float() for label in range(len(ratios)) if met[label]})
    return columns
