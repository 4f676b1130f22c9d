"""Per-example memory across epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor

from litselect.scoring.ledger_file import write_table

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool, Float, Int

NEVER: Final = -1
_AT_ONCE: Final = 2**10  # so many are counted at a time
_MOST: Final = 2**15 - _AT_ONCE  # counts stop here, so that none wraps around, whatever is counted

FIELDS: Final[dict[str, tuple[torch.dtype, float]]] = {
    "loss": (torch.float32, float("nan")),
    "smoothed": (torch.float32, float("nan")),
    "percentile": (torch.float32, float("nan")),
    "step": (torch.int32, NEVER),
    "first_learned": (torch.int32, NEVER),
    "seen": (torch.int16, 0),
    "scored": (torch.int16, 0),
    "trained": (torch.int16, 0),
    "forgotten": (torch.int16, 0),
    "confidence": (torch.float16, 0.0),
    "learned": (torch.bool, False),
}
COUNTS: Final = ("seen", "scored", "trained", "forgotten")


class Ledger:
    """What is known of each example of a map-style data set.

    Flat tensors of one entry an example, 31 bytes in all: ten million examples take 310 MB. An update of a batch is a
    few indexed reads and writes, whose cost does not grow with the size of the ledger; there is no host sync.

    Args:
        size: number of examples.
        smoothing: weight of the past in the smoothed loss, in [0, 1).
        device: where the tensors live.

    Attributes:
        loss: ``[size]`` float32, last known loss, NaN where there is none.
        smoothed: ``[size]`` float32, exponential average of the losses.
        percentile: ``[size]`` float32 in [0, 1], rank that the last loss had, when it was computed, among those that
            were known of the data set when the epoch began (in the first epoch: of the batch).
        step: ``[size]`` int32, incoming batch that `loss` dates from, -1 where there is none.
        first_learned: ``[size]`` int32, batch in which the example was first predicted correctly, -1 if never.
        seen: ``[size]`` int16, how often the example was a candidate. Counts stop at about 32,000.
        scored: ``[size]`` int16, how often it went through a scoring pass.
        trained: ``[size]`` int16, how often it was trained.
        forgotten: ``[size]`` int16, how often a correct prediction was followed by a wrong one (Toneva et al., 2019,
            https://arxiv.org/abs/1812.05159).
        confidence: ``[size]`` float16, probability last predicted for its class, 0 where another class was likelier.
        learned: ``[size]`` bool, whether the last prediction was correct.

    Raises:
        ValueError: if `size` < 1 or `smoothing` is outside [0, 1).
    """

    loss: Tensor
    smoothed: Tensor
    percentile: Tensor
    step: Tensor
    first_learned: Tensor
    seen: Tensor
    scored: Tensor
    trained: Tensor
    forgotten: Tensor
    confidence: Tensor
    learned: Tensor

    def __init__(self, size: int, *, smoothing: float = 0.9, device: torch.device | str = "cpu") -> None:
        if size < 1:
            raise ValueError(f"A ledger holds one entry per example of the data set, but got size={size!r}.")
        if not 0 <= smoothing < 1:
            raise ValueError(f"Expected smoothing, the weight of the past, in [0, 1), but got {smoothing!r}. Use 0.9.")
        self.size = size
        self.smoothing = smoothing
        for name, (dtype, empty) in FIELDS.items():
            setattr(self, name, torch.full((size,), empty, dtype=dtype, device=device))

    def see(self, ids: Int[Tensor, " batch"]) -> None:
        """Count `ids` as candidates."""
        _count(self.seen, ids)

    def train(self, ids: Int[Tensor, " batch"]) -> None:
        """Count `ids` as trained."""
        _count(self.trained, ids)

    def score(self, ids: Int[Tensor, " batch"]) -> None:
        """Count `ids` as scored."""
        _count(self.scored, ids)

    def record(
        self,
        ids: Int[Tensor, " batch"],
        losses: Float[Tensor, " batch"],
        percentiles: Float[Tensor, " batch"],
        step: int | Int[Tensor, " batch"],
    ) -> None:
        """Enter the losses of a batch. Of an id that occurs twice, one of the losses is kept.

        Args:
            ids: which examples.
            losses: their losses.
            percentiles: ranks of the losses, in [0, 1].
            step: the number of the batch, or ``[N]`` int32, of each one's.
        """
        losses = losses.detach().float()
        known = self.smoothed[ids]
        # After an infinite loss it begins anew, or no later one would show.
        self.smoothed[ids] = torch.where(known.isfinite(), known.lerp(losses, 1 - self.smoothing), losses)
        self.loss[ids] = losses
        self.percentile[ids] = percentiles.float()
        self.step[ids] = step

    def predict(
        self,
        ids: Int[Tensor, " batch"],
        confidences: Float[Tensor, " batch"],
        correct: Bool[Tensor, " batch"],
        step: int | Int[Tensor, " batch"],
    ) -> None:
        """Enter the predictions of a batch.

        Args:
            ids: which examples.
            confidences: probability that was predicted for their classes.
            correct: whether no class was likelier.
            step: the number of the batch, or ``[N]`` int32, of each one's.
        """
        self.forgotten[ids] += (self.learned[ids] & ~correct).to(self.forgotten.dtype)
        first = self.first_learned[ids]
        self.first_learned[ids] = torch.where((first == NEVER) & correct, step, first)
        self.learned[ids] = correct
        self.confidence[ids] = (confidences.detach() * correct).to(self.confidence.dtype)

    def grow(self, size: int) -> None:
        """Make room for ids up to `size`, for data sets that don't tell their length."""
        if size <= self.size:  # as every epoch finds, of a data set that stays what it is: nothing is copied
            return
        for name, (dtype, empty) in FIELDS.items():
            old: Tensor = getattr(self, name)
            more = torch.full((size - self.size,), empty, dtype=dtype, device=old.device)
            setattr(self, name, torch.cat([old, more]))
        self.size = size

    # ------------------------------------------------------------------ state, merging, export

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the tensors, on the CPU."""
        return {name: getattr(self, name).to("cpu", copy=True) for name in FIELDS}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state`, with as many examples as it has.

        Raises:
            ValueError: if it isn't the state of a ledger.
        """
        shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
        size = state["loss"].numel() if "loss" in state else 0
        if shapes != {name: (dtype, (size,)) for name, (dtype, _) in FIELDS.items()}:
            raise ValueError(
                f"The state of a ledger holds {', '.join(FIELDS)}, one entry an example each, but got {shapes}. "
                "Resume from a checkpoint of this version, or without the callback's state."
            )
        device = self.loss.device
        self.size = size
        for name in FIELDS:
            setattr(self, name, state[name].to(device, copy=True))

    def merge(self, others: list[Ledger]) -> None:
        """Take in what other ranks recorded since all were equal.

        The rule: a loss and all that belongs to it come from the rank that recorded it last (of equal ones, from the
        first); counts are the highest. That is exact where an example comes to one rank an epoch. Where a sampler
        repeats some to make ranks even, those count once.
        """
        for other in others:
            newer = other.step > self.step
            for name in FIELDS.keys() - set(COUNTS):
                setattr(self, name, torch.where(newer, getattr(other, name), getattr(self, name)))
            for name in COUNTS:
                setattr(self, name, torch.maximum(getattr(self, name), getattr(other, name)))

    def to(self, device: torch.device | str) -> Ledger:
        """Move the tensors; answer with itself."""
        for name in FIELDS:
            setattr(self, name, getattr(self, name).to(device))
        return self

    def table(self) -> dict[str, list[Any]]:
        """All entries as columns, `id` first."""
        columns = {name: cast("list[Any]", cast("Any", values).tolist()) for name, values in self.state_dict().items()}
        return {"id": list(range(self.size)), **columns}

    def export(self, path: str | Path) -> None:
        """Write the table as CSV, or as parquet where `path` ends in ``.parquet`` (needs pyarrow).

        Raises:
            ModuleNotFoundError: if parquet is asked for and pyarrow is not installed.
        """
        write_table(self.table(), path)

    def __repr__(self) -> str:
        return f"Ledger({self.size}, smoothing={self.smoothing!r})"


def _count(counter: Tensor, ids: Int[Tensor, " batch"]) -> None:
    """Add one for each occurrence."""
    for part in cast("tuple[Tensor, ...]", cast("Any", ids).split(_AT_ONCE)):
        counter.index_add_(0, part, (counter[part] < _MOST).to(counter.dtype))
