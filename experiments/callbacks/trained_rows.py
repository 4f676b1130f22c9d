"""Which rows were trained on, epoch by epoch."""

import csv
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from experiments.callbacks.meter import Meter
from experiments.callbacks.tally import Tally

FILE = "trained.csv"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class TrainedRows(Callback):
    """Writes a row to `trained.csv` after every epoch: the kept fraction, and classes and losses of what was trained.

    It looks, and changes nothing. Stands behind the selection callback and the meter in the Trainer's list. A batch
    costs one cross-entropy of its logits, which are there already.

    The losses of candidates are those of the scoring passes ("scoring"), or those that the selection remembers at the
    end of the epoch ("ledger"), or where all are trained those of training; of a choice by chance they are not known.

    Args:
        folder: of the run.
        meter: what has been seen and trained, by which selection.
    """

    def __init__(self, folder: Path, meter: Meter) -> None:
        self.file = folder / FILE
        self.meter = meter
        self._newest: tuple[Tensor, Tensor] | None = None  # logits and labels of the newest step, scoring or training
        self._before = Tally()
        self._clear()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to the module, an `experiments.classifier.Classifier`."""
        self.file.unlink(missing_ok=True)
        self._before = self.meter.tally
        module: Any = pl_module
        module.heard = self._hear

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens no longer."""
        module: Any = pl_module
        module.heard = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Notes the rows of the step that goes backward, which no scoring pass does."""
        assert self._newest is not None  # there is no loss without a training step
        logits, labels = self._newest
        self._newest = None
        self._classes = logits.shape[1]
        with torch.no_grad():
            self._trained.append(F.cross_entropy(logits.detach().float(), labels, reduction="none"))
        self._labels.append(labels)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the losses that candidates were chosen by."""
        self._newest = None  # a look-ahead's, which would keep its graph
        session: Any = getattr(self.meter.selection, "_session", None)  # which alone has those of all candidates
        if session is not None and session.scores is not None:
            self._scored.append(session.scores.losses.detach().float())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a row; an epoch in which nothing was trained has none."""
        now, before = self.meter.tally, self._before
        seen, trained = now.seen - before.seen, now.trained - before.trained
        if self._trained:
            origin, losses = self._candidates(seen == trained)
            counts = torch.cat(self._labels).bincount(minlength=self._classes).tolist()
            self._write(
                {
                    "epoch": trainer.current_epoch + 1,
                    "seen": seen,
                    "trained": trained,
                    **_quantiles("trained", torch.cat(self._trained)),
                    "seen_losses_from": origin,
                    **_quantiles("seen", losses),
                    **{f"class_{label}": count for label, count in enumerate(counts)},
                }
            )
        self._before = now
        self._clear()

    def _hear(self, logits: Tensor, labels: Tensor) -> None:
        self._newest = logits, labels

    def _clear(self) -> None:
        self._trained: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._scored: list[Tensor] = []

    def _candidates(self, everything: bool) -> tuple[str, Tensor | None]:
        """Whence the losses of the candidates are known, and what they are."""
        if self._scored:
            return "scoring", torch.cat(self._scored)
        if everything:
            return "training", torch.cat(self._trained)
        ledger: Any = getattr(self.meter.selection, "ledger", None)
        losses = torch.empty(0) if ledger is None else ledger.loss[~ledger.loss.isnan()].float()
        return ("ledger", losses) if len(losses) else ("", None)

    def _write(self, row: dict[str, Any]) -> None:
        first = not self.file.exists()
        with self.file.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if first:
                writer.writeheader()
            writer.writerow(row)


def _quantiles(name: str, losses: Tensor | None) -> dict[str, float | None]:
    """Columns such as `seen_loss_p05`; interpolated linearly."""
    columns = [f"{name}_loss_p{round(100 * at):02}" for at in QUANTILES]
    if losses is None:
        return dict.fromkeys(columns)
    places = torch.tensor(QUANTILES, dtype=torch.float64) * (len(losses) - 1)
    ordered = losses.double().sort().values
    low, high = ordered[places.floor().long()], ordered[places.ceil().long()]
    return dict(zip(columns, torch.lerp(low.cpu(), high.cpu(), places.frac()).tolist(), strict=True))
