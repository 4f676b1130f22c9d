"""The cheapest scores that choose the same rows, and whether they pay: found out while training."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable
from textwrap import shorten
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import distributed

from litselect.callbacks.check_state import check_state
from litselect.callbacks.epoch_pace import accumulated
from litselect.callbacks.fidelity import Fidelity
from litselect.callbacks.log_of import log_of
from litselect.callbacks.process_group import world_size
from litselect.scoring import Scores, ScoringPass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytorch_lightning import Trainer

WhenUnprofitable = Literal["select", "train_all"]
Phase = Literal["options", "plain", "selected", "decided"]

_OPTIONS: Final[Mapping[str, Callable[[], ScoringPass]]] = {
    "full": ScoringPass,
    "bf16": lambda: ScoringPass(precision="bf16"),
    "channels_last": lambda: ScoringPass(memory_format=torch.channels_last),
    "bf16 channels_last": lambda: ScoringPass(precision="bf16", memory_format=torch.channels_last),
    "half resolution": lambda: ScoringPass(resolution=0.5),
    "half resolution bf16": lambda: ScoringPass(precision="bf16", resolution=0.5),
    "chunks of 32": lambda: ScoringPass(chunk=32),
    "bf16, chunks of 64": lambda: ScoringPass(precision="bf16", chunk=64),
}
_LENGTHS: Final[Mapping[Phase, int]] = {"options": 4, "plain": 5, "selected": 5, "decided": 2000}
_ORDER: Final[tuple[Phase, ...]] = ("options", "plain", "selected", "decided")
_LEAST_OVERLAP: Final = 0.9


def check_when(when_unprofitable: Any, scoring: Any) -> None:
    """Refuse a setting that would have no effect.

    Raises:
        ValueError: with the invariant, what was received and the remedy.
    """
    if when_unprofitable not in ("select", "train_all"):
        raise ValueError(f'Expected when_unprofitable to be "select" or "train_all", but got {when_unprofitable!r}.')
    if when_unprofitable != "select" and scoring != "auto":
        raise ValueError(
            f'when_unprofitable={when_unprofitable!r} says what scoring="auto" does where selection does not pay, but '
            f"got scoring={scoring!r}. Pass both, or neither."
        )


class AutoScoring:
    """Goes through four phases, counted in batches, over and over.

    In the first, every option scores each batch, and rows are chosen by the full pass. The cheapest option is taken
    that agrees with the full pass on at least nine of ten of the k rows of highest loss, whatever the selector makes of
    them. In the second all rows are trained, in the third they are selected, and both are timed, each over whole steps
    where gradients are accumulated: so it is known whether selection pays. The fourth is training as decided. The first
    batch of each phase is not counted in times: caches and kernels settle.

    On a CPU chunks are looked at, too: what a layer makes of few rows stays in the caches, and is not given back to the
    system layer by layer. On CUDA the host waits for the device in the first three, which are a hundredth of all
    batches or less. Ranks do what rank 0 finds. As times differ from run to run, so may the option; it is part of the
    checkpoint.

    Args:
        when_unprofitable: what to do where selection takes longer than training all rows: ``"select"`` goes on with a
            warning, ``"train_all"`` trains all rows until the next look.

    Attributes:
        chosen: the name of the option in use.
        pays: whether selection does, or None until that is known.
        table: what the last look found, as text.
    """

    def __init__(self, when_unprofitable: WhenUnprofitable) -> None:
        self.when_unprofitable = when_unprofitable
        self.chosen, self.table = "full", ""
        self.pays: bool | None = None
        self.phase: Phase = "options"
        self._place = 0  # within the phase
        self._found: dict[str, Fidelity] = {}
        self._refused: dict[str, str] = {}
        self._seconds: dict[str, list[float]] = {"plain": [], "selected": []}
        self._began: float | None = None
        self._shown: set[str] = set()

    # ------------------------------------------------------------------ what the session asks

    @property
    def selects(self) -> bool:
        """Whether rows are to be selected from the present batch."""
        return self.phase != "plain" and not (
            self.phase == "decided" and self.pays is False and self.when_unprofitable == "train_all"
        )

    @property
    def scoring(self) -> ScoringPass:
        """The pass in use."""
        return _OPTIONS[self.chosen]()

    def begin(self, trainer: Trainer) -> None:
        """A batch is about to be looked at."""
        if self.phase in self._seconds:
            self._began = _now(trainer.strategy.root_device)

    def end(self, trainer: Trainer) -> bool:
        """A batch on which selection was on is trained. Answers whether another option is in use from now on."""
        device = trainer.strategy.root_device
        if self._began is not None:
            self._seconds[self.phase].append(_now(device) - self._began)
            self._began = None
        self._place += 1
        if self._place < self._length(trainer):
            return False
        before = self.chosen
        if self.phase == "options":
            self._choose(device)
        elif self.phase == "selected":
            self._judge(trainer)
        self.phase = _ORDER[(_ORDER.index(self.phase) + 1) % len(_ORDER)]
        self._place = 0
        if self.phase == "options":
            self._found, self._refused, self._seconds = {}, {}, {"plain": [], "selected": []}
        return self.chosen != before

    def _length(self, trainer: Trainer) -> int:
        """Of the present phase. All batches but the first are timed, and make up whole steps where several make one."""
        length = _LENGTHS[self.phase]
        if self.phase not in self._seconds:
            return length
        together = accumulated(trainer)
        return 1 + math.ceil((length - 1) / together) * together

    # ------------------------------------------------------------------ the options

    def measure(self, score: Callable[[ScoringPass], Scores | None], k: int, device: torch.device) -> Scores | None:
        """Score a batch in every way; answers with the full pass's scores.

        Args:
            score: scores the batch.
            k: how many rows will be chosen.
            device: the module's.
        """
        full: Scores | None = None
        for name, make in _OPTIONS.items():
            scoring = make()
            if name in self._refused or (full is not None and not _sensible(scoring, full.losses.numel(), device)):
                continue
            began = _now(device)
            try:
                scores = score(scoring)
            except Exception as error:
                if name == "full":
                    raise
                self._refused[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                self._found.pop(name, None)
                continue
            seconds = _now(device) - began
            full = scores if name == "full" else full
            if scores is None or full is None:
                return None  # the step declined the batch
            self._found.setdefault(name, Fidelity()).add(scores.losses, full.losses, k, seconds)
        return full

    def _choose(self, device: torch.device) -> None:
        """The cheapest option that chooses as the full pass does."""
        fits = [name for name, found in self._found.items() if found.overlap >= _LEAST_OVERLAP]
        names = list(_OPTIONS)
        best = min(fits, key=lambda name: self._found[name].seconds, default="full")
        self.chosen = names[_agreed(names.index(best), device)]

    def _judge(self, trainer: Trainer) -> None:
        """Whether selection pays, in seconds a batch."""
        plain, selected = (_typical(self._seconds[name]) for name in ("plain", "selected"))
        self.pays = bool(_agreed(int(selected < plain), trainer.strategy.root_device))
        self.table = self._tabulate(plain, selected)
        if "table" not in self._shown and trainer.is_global_zero:
            self._shown.add("table")
            log_of(trainer).info("scoring='auto' has looked at this training:\n%s", self.table)
        if not self.pays and "warning" not in self._shown:
            self._shown.add("warning")
            goes_on = {
                "select": 'It goes on all the same: pass when_unprofitable="train_all" to train on all rows instead',
                "train_all": "All rows are trained from now on",
            }
            warnings.warn(
                f"Selection does not pay here: a batch takes {1e3 * selected:.2f} ms with it, {1e3 * plain:.2f} ms "
                f"without, of which scoring is {1e3 * self._scoring_seconds:.2f} ms. "
                f'{goes_on[self.when_unprofitable]}; scoring="ledger" needs no pass, and a smaller keep less training.',
                stacklevel=2,
            )

    @property
    def _scoring_seconds(self) -> float:
        """Of the pass in use; rank 0 may have chosen one that failed here."""
        found = self._found.get(self.chosen)
        return math.nan if found is None else found.seconds

    def _tabulate(self, plain: float, selected: float) -> str:
        lines = [f"{'option':22}{'ms':>9}{'overlap':>9}{'rank corr.':>12}"]
        for name, found in self._found.items():
            mark = " *" if name == self.chosen else ""
            lines.append(f"{name + mark:22}{1e3 * found.seconds:9.2f}{found.overlap:9.3f}{found.correlation:12.3f}")
        lines += [f"{name:22}not here: {shorten(why, 100, placeholder=' ...')}" for name, why in self._refused.items()]
        lines.append(
            f"a batch: {1e3 * plain:.2f} ms without selection, {1e3 * selected:.2f} ms with it (*): selection "
            f"{'pays' if selected < plain else 'does not pay'}"
        )
        return "\n".join(lines)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """The decision and the way to the next, but not measurements of a look that is broken off."""
        started = self.phase != "decided"
        return {
            "chosen": self.chosen, "pays": -1 if self.pays is None else int(self.pays), "table": self.table,
            "phase": "options" if started else self.phase, "place": 0 if started else self._place,
            "shown": sorted(self._shown),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        check_state("scoring='auto'", state, self.state_dict())
        self.chosen, self.table, self.phase = state["chosen"], state["table"], state["phase"]
        self.pays = None if state["pays"] < 0 else bool(state["pays"])
        self._place, self._shown = state["place"], set(state["shown"])


def _sensible(scoring: ScoringPass, n: int, device: torch.device) -> bool:
    """Whether its chunks, if any, are parts of the batch, and a CPU's: small operations don't fill a GPU."""
    return scoring.chunk is None or (scoring.chunk < n and device.type == "cpu")


def _typical(seconds: list[float]) -> float:
    """The mean, as a selector may skip batches, but for the first."""
    return statistics.fmean(seconds[1:]) if len(seconds) > 1 else math.nan


def _agreed(value: int, device: torch.device) -> int:
    """Rank 0's value. A collective."""
    if world_size() == 1:
        return value
    shared = torch.tensor([value], device=device)
    distributed.broadcast(shared, 0)
    return int(shared.item())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
