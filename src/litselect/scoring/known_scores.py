"""What a ledger knows at the beginning of an epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from litselect.scoring.ledger import NEVER, Ledger

if TYPE_CHECKING:
    from collections.abc import Set

    from jaxtyping import Float, Int

UNKNOWN_LOSS = torch.finfo(torch.float32).max
"""Stands for a loss that is not known: such examples come first."""

_BELOW_ONE = 1 - 2**-24  # in float32, whatever rounding does: a rank of 1 says that no loss is known


class KnownScores:
    """The ledger as selectors see it: ranks over the whole data set, which are made once an epoch.

    So a choice does not depend on how far ahead of the training the loader's workers are.

    Cost: one sort of the ledger an epoch (3 seconds for ten million examples), then one indexed read a batch; a copy of
    the losses in order, and the ranks, 4 bytes an example each.

    Args:
        ledger: whose entries are read.
        frozen: whether all entries are those of the beginning of the epoch, on the CPU: for choices that are made
            before a batch is loaded. Otherwise they are the present ones, and only the ranks are made once an epoch.
    """

    def __init__(self, ledger: Ledger, *, frozen: bool = False) -> None:
        self.ledger = ledger
        self.mean_loss: float | None = None
        self._frozen = frozen
        self._entries = self._read() if frozen else {}
        self._ranks = torch.ones_like(ledger.loss)
        self._sorted = ledger.loss[:0]  # the losses that are ranked
        self._epochs: list[int] = []  # the number of the first batch of each

    def _read(self) -> dict[str, Tensor]:
        return {name: getattr(self.ledger, name).to("cpu", copy=True) for name in ("loss", "confidence", "step")}

    def begin_epoch(self, step: int) -> None:
        """Rank all examples by their last known losses, at batch number `step`.

        Losses fall as training goes on, so an example that was not trained for long ranks higher than it did then,
        until its loss is renewed. Ranks among the losses of its own time would leave it where it is.

        Ties share the middle of their ranks; 1 is kept for examples whose loss is not known.
        """
        if not self._epochs or self._epochs[-1] != step:
            self._epochs.append(step)
        if self._frozen:
            self._entries = self._read()
        losses = self.ledger.loss
        known = int(len(losses) - losses.isnan().sum())
        ranked, order = losses.sort()  # NaN last
        ties: Any = cast("Any", ranked[:known]).unique_consecutive(return_inverse=True, return_counts=True)
        group, sizes = cast("Tensor", ties[1]), cast("Tensor", ties[2]).double()
        middle = (sizes.cumsum(0) - sizes / 2) / max(1, known)
        self._sorted = ranked[:known].clone()  # or the NaNs would be kept with them
        self._ranks = torch.ones_like(losses)
        self._ranks[order[:known]] = middle.to(losses.dtype).clamp_max(_BELOW_ONE)[group]
        if self._frozen:
            self._ranks = self._ranks.cpu()
        finite = losses[losses.isfinite()]  # an infinite one would say that all others are easy, or that none is
        self.mean_loss = finite.mean(dtype=torch.float64).item() if len(finite) else None

    def rank(self, losses: Float[Tensor, " batch"], sizes: list[int] | None = None) -> Float[Tensor, " batch"]:
        """The rank of each of these losses among those that are ranked. ``[N]`` float32 in (0, 1).

        Equal losses share the middle of their ranks. While none is ranked, in the first epoch, the batch's own are; of
        several batches, each has its `sizes` of them. No host sync.
        """
        losses = losses.detach().float()
        self._sorted = self._sorted.to(losses.device)  # that of a checkpoint is on the CPU
        if len(self._sorted):
            return _ranks(losses, self._sorted)
        batches = cast("Any", losses).split(sizes or [len(losses)])
        return torch.cat([_ranks(batch, batch.sort().values) for batch in batches])

    def of(self, ids: Int[Tensor, " batch"], names: Set[str] | None = None) -> dict[str, Any]:
        """What is known of `ids`, by the names under which selectors take it. ``[N]`` each, and the mean loss.

        Args:
            ids: which examples.
            names: those that are asked for; None for all.
        """
        entries = {
            "losses": self._losses,
            "percentiles": self._percentiles,
            "confidences": self._confidences,
            "ages": self.ages,
        }
        scores: dict[str, Any] = {name: of(ids) for name, of in entries.items() if names is None or name in names}
        scores["ids"] = ids
        return scores if self.mean_loss is None else {**scores, "mean_loss": self.mean_loss}

    def _losses(self, ids: Tensor) -> Tensor:
        return torch.where(self._entry("step", ids) == NEVER, UNKNOWN_LOSS, self._entry("loss", ids))

    def _percentiles(self, ids: Tensor) -> Tensor:
        self._reach()
        return self._ranks.index_select(0, ids.to(self._ranks.device)).to(ids.device)

    def _confidences(self, ids: Tensor) -> Tensor:
        return self._entry("confidence", ids).float()

    def _entry(self, name: str, ids: Tensor) -> Tensor:
        entries: Tensor = self._entries[name] if self._frozen else getattr(self.ledger, name)
        return entries.index_select(0, ids.to(entries.device)).to(ids.device)

    def ages(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """How many epochs ago the loss of each was computed, inf where it never was."""
        steps = self._entry("step", ids)
        epochs = torch.tensor(self._epochs, dtype=torch.int32).to(steps.device, non_blocking=True)
        ages = (len(self._epochs) - torch.bucketize(steps, epochs, right=True)).float()
        return torch.where(steps == NEVER, math.inf, ages)

    def _reach(self) -> None:
        """Examples that came since the epoch began are not known."""
        missing = self.ledger.size - len(self._ranks)
        if missing > 0:
            self._ranks = torch.cat([self._ranks, self._ranks.new_ones(missing)])

    def state_dict(self) -> dict[str, Any]:
        """All but the ledger."""
        return {
            "ranks": self._ranks.to("cpu", copy=True),
            "sorted": self._sorted.to("cpu", copy=True),
            "epochs": list(self._epochs),
            "mean_loss": self.mean_loss,
            "entries": {name: tensor.clone() for name, tensor in self._entries.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._ranks = state["ranks"].to(self._ranks.device, copy=True)
        self._sorted = state["sorted"].to(self._sorted.device, copy=True)
        if state["entries"]:
            self._entries = {name: tensor.clone() for name, tensor in state["entries"].items()}
        self._epochs, self.mean_loss = list(state["epochs"]), state["mean_loss"]


def _ranks(losses: Tensor, ranked: Tensor) -> Tensor:
    """Of each loss among those that are `ranked`, ascending."""
    below = torch.searchsorted(ranked, losses)
    not_above = torch.searchsorted(ranked, losses, right=True)
    return ((below + not_above + 1) / (2 * len(ranked) + 2)).clamp_max(_BELOW_ONE)
