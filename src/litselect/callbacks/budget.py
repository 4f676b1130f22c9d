"""Training until something is spent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import torch

from litselect.callbacks.batch_sizes import declared_batch_size
from litselect.callbacks.callback_base import CallbackBase
from litselect.callbacks.check_state import check_state
from litselect.callbacks.log_of import log_of
from litselect.callbacks.operations import Operations
from litselect.callbacks.prices import Prices
from litselect.callbacks.work import Work
from litselect.callbacks.work_count import WorkCount

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

_ROUNDING = 1e-9  # of the amount: sums of fractions of it that make up the whole fall short by less
_NEARLY = 0.99  # spent as good as whole: a last batch that is smaller is no fault


class Budget(CallbackBase):
    """Stop training when an amount is spent: of work, scoring and rating included, or of time.

    .. code-block:: python

        budget = Budget(candidates=1_000_000)
        trainer = Trainer(max_epochs=-1, callbacks=[SelectiveBackprop(keep=1/3), budget, BudgetSchedule("cosine")])

    Methods that select make other numbers of steps and of epochs for the same money. To compare them, give each the
    same budget, and let `BudgetSchedule` decay the learning rate within it.

    Stands behind the callback that selects. Training ends with the batch that spends the rest, or where the Trainer's
    own ``max_epochs`` or ``max_steps`` end it sooner, which is warned of. ``trainer.max_epochs`` is what the pace up to
    the last epoch foretells, never more than it was: selectors that anneal, and whatever else is planned in epochs,
    keep to the budget. Evaluation costs nothing.

    With several processes, rows and operations are those of all together, and seconds those of the slowest; this takes
    one collective a batch. What is spent is in the checkpoint.

    Args:
        reference_seconds: counted work times calibrated seconds, which repeats exactly however busy the machine is;
            takes `prices`.
        flops: floating-point operations of forward and backward passes, a multiply-add being two; counted once for
            each shape of an example by ``torch.utils.flop_counter``, or taken from `prices`. Under manual optimization
            it needs `prices`.
        seconds: of wall-clock time in training, data loading included.
        candidates: rows that the DataLoader yields.
        trained: rows that go through the training step.
        prices: see `Prices`: one, a mapping, or a JSON file with one.
        before: what has been spent already, in the same unit: on a table of irreducible losses, or on a rater.

    Attributes:
        spent: so far, with what was spent before.
        breakdown: the same by kind of work, on this rank; only "before" where the unit is no price.

    Raises:
        ValueError: if not exactly one amount is given, or it is no positive number, or prices are missing, or the
            amount is spent before training begins; at fit start, if the order of the callbacks is wrong.
    """

    foretells_length = True  # so that fractions of training can be asked for without max_epochs

    def __init__(
        self,
        *,
        reference_seconds: float | None = None,
        flops: float | None = None,
        seconds: float | None = None,
        candidates: int | None = None,
        trained: int | None = None,
        prices: Prices | str | Path | Mapping[str, Iterable[tuple[float, float]]] | None = None,
        before: float = 0.0,
    ) -> None:
        amounts = {
            "reference_seconds": reference_seconds,
            "flops": flops,
            "seconds": seconds,
            "candidates": candidates,
            "trained": trained,
        }
        given = {unit: amount for unit, amount in amounts.items() if amount is not None}
        if len(given) != 1 or not all(
            isinstance(cast("Any", amount), Real) and 0 < amount < math.inf for amount in given.values()
        ):
            raise ValueError(
                f"Expected one positive amount among {', '.join(amounts)}, but got {given or 'none'}. "
                "Budget(candidates=500_000) is ten epochs of 50,000 examples."
            )
        ((self.unit, amount),) = given.items()
        self.amount = float(amount)
        if (prices is None) if self.unit == "reference_seconds" else (prices is not None and self.unit != "flops"):
            raise ValueError(
                f"Expected prices with reference_seconds, where they say what each kind of work takes, and with flops "
                f"if at all, but got prices={prices!r} with {self.unit}."
            )
        if not 0 <= before < self.amount:
            raise ValueError(
                f"Expected less to be spent before training than the whole budget, but got before={before!r} of "
                f"{self.unit}={self.amount!r}. Raise the budget, or share what is made before among several runs."
            )
        self.prices = self._given = None if prices is None else Prices.of(prices)
        self.breakdown: dict[str, float] = {"before": float(before)}
        self.spent = float(before)
        self._before, self._forecast, self._began = float(before), 0, 0.0
        self._plain = 0.0  # epochs that plain training would last, 0 where that can't be known
        self._limit: Any = None
        self._resumed, self._fits = False, True
        self._started: float | None = None
        self._pending = 0.0
        self._count: WorkCount | None = None
        self._operations: Operations | None = None

    @property
    def progress(self) -> float:
        """The spent share, 0 to 1; of what is spent in training, so that it begins at 0."""
        progress = (self.spent - self._before) / (self.amount - self._before)
        return 1.0 if progress > 1 - _ROUNDING else progress

    def worth(self, keep: float) -> float:
        """How many epochs of plain training would train as many rows as one who trains `keep` of each batch can.

        Within the budget, as far as it foretells a length, and within the Trainer's own ``max_epochs``.
        """
        own = math.inf if self._limit in (None, -1) else float(self._limit)
        foretold = self._plain or math.inf
        # A budget of costs lasts longer by as much as is trained less.
        return min(keep * own, foretold * (keep if self.unit == "candidates" else 1.0))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin with nothing spent.

        Raises:
            ValueError: if operations can't be counted.
        """
        self._fits = stage == "fit"
        if not self._fits:
            return
        if self.unit == "flops" and self._given is None:
            self._operations = Operations(pl_module)
        self.spent, self.breakdown = self._before, {"before": self._before}
        self._forecast, self._resumed, self._plain, self.prices = 0, False, 0.0, self._given

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the length that was foretold."""
        self._limit = trainer.fit_loop.max_epochs
        self._foretell(trainer, self._forecast)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look where counters and epochs stand, and start the clock."""
        if not self._resumed:
            self._began = float(trainer.current_epoch)
            self._foretell(trainer, self._at_plain_pace(trainer))
        self._count = WorkCount(trainer, self)
        if self._operations is not None:
            self._operations.listen(trainer, pl_module, self._count.selection, self._reprice)
        self._started, self._pending = perf_counter(), 0.0
        if self.progress >= 1:
            trainer.should_stop = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the rows, before a step may take them out of the batch."""
        if self._count is not None and self.unit != "seconds":
            self._count.arrive(batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Charge the batch, and stop where that was the rest."""
        assert self._count is not None
        self._charge(self._count.batch(), trainer)
        pl_module.log("budget", self.progress, prog_bar=True, batch_size=1)
        if self.progress >= 1:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Foretell how many epochs there will be: once in each, or what is planned would hang on who looks when."""
        if 0 < self.progress < 1:
            passed = trainer.current_epoch + 1 - self._began
            lasts = max(passed + 1, math.ceil(passed / self.progress * (1 - _ROUNDING)))  # always more than have passed
            self._foretell(trainer, int(self._began + lasts))
        elif self.progress == 0:  # an epoch that cost nothing foretells nothing
            trainer.fit_loop.max_epochs = self._limit

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._tick()
        self._started = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start it again."""
        if self._count is not None:
            self._started = perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that it is spent; or warn that it was not, and learning rates have not come to their end."""
        if self.progress == 1 and trainer.is_global_zero:
            log_of(trainer).info("The budget of %.6g %s is spent.", self.amount, self.unit)
        stopped = trainer.should_stop or trainer.interrupted or cast("Any", trainer).fast_dev_run
        if self.progress < _NEARLY and not stopped:
            warnings.warn(
                f"Training ended with {self.progress:.0%} of the budget of {self.amount:.6g} {self.unit} spent, as the "
                f"Trainer's own limits came first (max_epochs={self._limit}, max_steps={trainer.max_steps}). Raise "
                "them (max_epochs=-1), or lower the budget.",
                stacklevel=2,
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the Trainer its own limit back."""
        if stage == "fit" and self._limit is not None:
            trainer.fit_loop.max_epochs = self._limit
        if self._operations is not None:
            self._operations.leave()
        self._limit = self._started = self._count = self._operations = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same, where training was left in the middle."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """What is spent."""
        return {
            "unit": self.unit, "amount": self.amount, "spent": self.spent, "breakdown": dict(self.breakdown),
            "began": self._began, "forecast": self._forecast,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: if another unit was counted.
        """
        if not self._fits:  # a checkpoint is tested
            return
        state = check_state("a budget", state_dict, self.state_dict())
        if state["unit"] != self.unit:
            raise ValueError(
                f"Expected a checkpoint of a budget of {self.unit}, but got one of {state['unit']}. Give the budget in "
                "the unit in which it began."
            )
        self.spent, self.breakdown, self._began = state["spent"], dict(state["breakdown"]), state["began"]
        self._forecast = state["forecast"] if state["amount"] == self.amount else 0  # another amount lasts otherwise
        self._resumed = state["spent"] > self._before  # or it is a finder that goes back to where nothing was done

    def _reprice(self, prices: Prices | None) -> None:
        self.prices = prices

    def _charge(self, work: Work, trainer: Trainer) -> None:
        if self.unit == "seconds":
            self._tick()
            cost, self._pending = self._pending, 0.0
        elif self.unit in ("flops", "reference_seconds"):
            costs = {} if self.prices is None else self.prices.of_work(work)
            for kind, cost in costs.items():
                self.breakdown[kind] = self.breakdown.get(kind, 0.0) + cost
            cost = sum(costs.values())
        else:
            cost = float(work.seen if self.unit == "candidates" else work.train)
        self.spent += self._of_all(cost, trainer)

    def _tick(self) -> None:
        """Note the time since the clock was read last; it is charged with the next batch, on all ranks together."""
        now = perf_counter()
        self._pending += 0.0 if self._started is None else now - self._started
        self._started = now

    def _of_all(self, cost: float, trainer: Trainer) -> float:
        """What a batch cost on all ranks together, or on the slowest: the same on each, which stop together."""
        if trainer.world_size == 1:
            return cost
        device = trainer.strategy.root_device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        operation = "max" if "seconds" in self.unit else "sum"
        strategy = cast("Any", trainer.strategy)
        return float(strategy.reduce(torch.tensor(cost, dtype=dtype, device=device), reduce_op=operation))

    def _at_plain_pace(self, trainer: Trainer) -> int:
        """Epochs that plain training would last, before there is any pace to go by; 0 where that can't be known."""
        batches, rows = trainer.num_training_batches, declared_batch_size(trainer) * trainer.world_size
        if not math.isfinite(batches) or not rows or self.unit in ("seconds", "flops"):
            return 0
        prices = {} if self.prices is None else self.prices.of_work(Work(load=rows, train=rows))
        epoch = batches * (sum(prices.values()) if self.prices else rows)
        self._plain = (self.amount - self._before) / epoch if epoch else 0.0
        return int(self._began) + math.ceil(self._plain * (1 - _ROUNDING)) if epoch else 0

    def _foretell(self, trainer: Trainer, epochs: int) -> None:
        self._forecast, own = epochs, self._limit
        if epochs:
            trainer.fit_loop.max_epochs = epochs if own in (None, -1) else min(epochs, own)
