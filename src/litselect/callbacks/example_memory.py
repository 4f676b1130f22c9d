"""The ledger of a training, and how batches find their entries in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from litselect.callbacks.alarms import Alarms
from litselect.callbacks.check_state import REMEDY, check_state
from litselect.callbacks.doubts import Doubts
from litselect.callbacks.example_tables import ExampleTables
from litselect.callbacks.id_tap import IdTap, validated
from litselect.callbacks.loader_watch import LoaderWatch
from litselect.callbacks.merge_ranks import highest, merge_ranks
from litselect.callbacks.rank_tables import gather_tables, padded, pick_tables
from litselect.callbacks.score_plan import ScorePlan
from litselect.callbacks.tapped_sampler import REMEDY as TELL_IDS
from litselect.callbacks.tapped_sampler import Decide, load_all
from litselect.callbacks.told_length import told_length
from litselect.scoring import Scores
from litselect.scoring.ledger import NEVER

if TYPE_CHECKING:
    from collections.abc import Set

    from jaxtyping import Int
    from pytorch_lightning import Trainer

    from litselect.selectors import Selection

Loss = Literal["unknown", "plain", "any"]
"""What a training step's loss is made of: a cross-entropy and nothing else, or who knows what."""

FindIds = Callable[[Any], Tensor]
"""``ids(batch) -> Tensor[N]`` int64: the position of each example in the data set."""


class ExampleMemory(ExampleTables):
    """Remembers the losses of examples under their ids.

    Args:
        plan: where scores come from.
        find: where a batch holds its ids; otherwise they are read off the loader's batch sampler.
        decide: which rows of a batch are loaded, see `Decide`; None loads all.
    """

    def __init__(self, plan: ScorePlan, find: FindIds | None, decide: Decide | None) -> None:
        super().__init__(frozen=decide is not None)
        self.plan = plan
        self._early_labels: Tensor | None = None  # on the CPU, as the epoch found them, if `frozen`
        self._froze = False  # whether an epoch has found some, or none; one that is gone on with has not
        self.loss: Loss = "unknown"
        self.at_once = False  # whether rows are selected from the first batch on, though nobody asked for it
        self.knows = False  # whether anything was known when the epoch began
        self.alarms = Alarms()
        self.learning_rate_factor = 1.0
        self._selecting = False  # whether this epoch selects from its beginning
        self.seed = torch.initial_seed()  # of choices that are made before a batch is loaded
        self._find = find
        self.sent: Tensor | None = None  # on the CPU, the ids of the newest batch, where they came from there
        self.doubts = Doubts()
        self._tap = IdTap(decide or load_all, self.doubts)
        self._watch: LoaderWatch | None = None
        self._loaded: dict[str, Any] | None = None
        self._apart: dict[str, Any] | None = None  # what each rank knew, until training starts
        self._sized = False
        self._loader: Any = None  # whose data set it is, until `detach`

    # ------------------------------------------------------------------ a training begins and ends

    def attach(self, trainer: Trainer) -> None:
        """See every training loader before it is iterated, until `detach`."""
        self._watch = LoaderWatch(
            trainer,
            self._meet,
            self._begin_at,
            # A finder's trial trains without callbacks, for so many steps, or in such batches, as it likes.
            lambda: any(getattr(callback, "memory", None) is self for callback in cast("Any", trainer).callbacks),
        )

    def expect(self) -> None:
        """The fit loop is about to run: it must not go on with a loader of a finder's trial."""
        if self._watch is not None:
            self._watch.expect()

    def exclude(self, ids: Int[Tensor, " held"]) -> None:
        """Have these left out before batches are loaded, where ids are read off the batch sampler."""
        self._tap.excluded = ids.cpu()

    def detach(self) -> None:
        """Put everything back. Harmless when called again."""
        self._loader = None  # it may be large, and the callback outlives it
        if self._watch is not None:
            self._watch.remove()

    def begin(self, device: torch.device) -> None:
        """Training starts, on `device`: from what this rank knew, where it goes on from a checkpoint."""
        if self._apart is not None:
            self._recollect(together=False)
            self._apart = None
        self.ledger.to(device)

    def _begin_at(self, batch_idx: int) -> None:
        self._tap.start = batch_idx

    def _meet(self, loader: Any, others: bool) -> Any:
        """A loader that is listened to, if ids come from there; or as it is, where nothing can be learned from it."""
        try:
            copied = loader if self._find is not None else self._tap.tapped(loader, others)
            if self.doubts.objects is not None:
                self.doubts.objects(loader)
            self._measure(loader)
        except ValueError as error:
            self.doubts.settle(error)
            return loader
        return copied

    def _measure(self, loader: Any) -> None:
        """The first loader tells the size of the ledger."""
        size = told_length(getattr(loader, "dataset", None))
        if size is None and self._find is None:
            raise ValueError(
                "The ids of examples are positions in a data set, but "
                f"{type(loader.dataset).__name__} does not tell its length. {TELL_IDS}"
            )
        size = 1 if size is None else size  # grows with the ids that arrive
        self._loader = loader
        if self._sized:
            self._grow(size)  # a data set may grow between epochs
            return
        self._sized = True
        self._make(size)
        if self._loaded is not None:
            self._restore(self._loaded, size)
            self._loaded = None

    def take_over(self, other: ExampleMemory) -> None:
        """Go on from what `other` remembers, of the same data set."""
        self.load_state_dict(other.state_dict(None), other.own_state())

    # ------------------------------------------------------------------ an epoch, a batch

    def begin_epoch(self, epoch: int, step: int, active: bool, keep: float, device: torch.device) -> None:
        """Put together what all ranks know, and rank it. A collective.

        Args:
            epoch: its number.
            step: the number of its first batch.
            active: whether rows are selected from its beginning.
            keep: which share.
            device: the module's.
        """
        self.ledger.to(device)
        if self._loader is not None:
            self._measure(self._loader)
        self.share(device)
        if self.labels is not None:
            self._early_labels = self.labels.to("cpu", copy=True) if self.frozen else None
            self.labels = self.labels.to(device)  # those of a data set or a checkpoint are on the CPU
        self._froze = self.frozen
        self.rank(step)
        self.plan.begin_epoch(epoch, active)
        if epoch:
            self.alarms.look(self.ledger, self.labels, keep, selecting=self._selecting)
        self._selecting, self.knows = active, bool((self._ledger.step != NEVER).any())
        self.doubts.late = self._selecting and self.knows

    def share(self, device: torch.device) -> None:
        """Let every rank know what the others learned. A collective."""
        size = highest(torch.tensor([self.ledger.size], device=self.ledger.loss.device), device)
        self._grow(int(size))  # of data sets that don't tell their length, ranks have seen different parts
        merge_ranks(self.ledger, device)
        labels = highest(padded(self.labels, self.ledger.size), device)  # a rank that met none takes part
        self.labels = labels if bool((labels >= 0).any()) else None

    def recall(self, ids: Int[Tensor, " batch"], names: Set[str] | None = None) -> dict[str, Any]:
        """What is known of `ids`, see `KnownScores.of`, and their classes, where the loss told them."""
        known = self.known.of(ids, names)
        labels = self._early_labels if self._froze else self._labels
        if names is None or "targets" in names:
            if labels is not None:
                known["targets"] = labels[ids.to(labels.device)].long().to(ids.device)
            elif not self.knows:  # as of those that are not met yet
                known["targets"] = torch.full_like(ids, -1)
        return known

    def arrive(self, trainer: Trainer, batch: Any, batch_idx: int, n: int) -> tuple[Tensor | None, Selection | None]:
        """The ids of a batch's candidates; and which of them are the rows that arrived, where that was decided before.

        Raises:
            RuntimeError: if its rows are not those that its sampler sent for.
            ValueError: if `ids` finds anything but one integer a row.
        """
        device, self.sent = self.device, None
        if self._find is not None:
            ids, largest = validated(self._find(batch), n)
            if largest >= self.size:
                self._grow(max(2 * self.size, largest + 1))
            return ids.to(device), None
        try:
            delivery = self._tap.delivery(trainer, batch_idx, n, self.size)
        except RuntimeError as error:
            self.doubts.refuse(error)
            return None, None
        self.sent = delivery.ids
        return delivery.ids.to(device, non_blocking=True), delivery.selection

    def outdated(self, ids: Int[Tensor, " batch"]) -> Int[Tensor, " rows"] | None:
        """Rows whose last known loss is too old to be used; None if those are all. The host waits for the device."""
        old = (self.known.ages(ids) > self.plan.max_age).nonzero().squeeze(1)
        return None if len(old) == len(ids) else old

    def refreshed(
        self,
        ids: Int[Tensor, " batch"],
        rows: Int[Tensor, " rows"] | None,
        scores: Scores,
        step: int,
        needs: frozenset[str],
    ) -> dict[str, Any]:
        """Enter the losses of a scoring pass over `rows` (None: all), and answer with what is now known of `ids`.

        Args:
            ids: the candidates.
            rows: which of them were scored.
            scores: their losses.
            step: the number of the batch.
            needs: what the selector can't do without: percentiles are for those that do not rank losses themselves.
        """
        fresh = ids if rows is None else ids[rows]
        self.scored(fresh, scores, step)
        known = self.recall(ids)
        percentiles = self.ledger.percentile[fresh]
        if rows is not None:
            known["losses"][rows] = scores.losses.to(known["losses"])
            known["percentiles"][rows] = percentiles
            known["ages"][rows] = 0.0
            return known
        known["percentiles"], known["ages"] = percentiles, torch.zeros_like(percentiles)
        if "percentiles" not in needs:
            del known["percentiles"]
        return {**known, **scores.given()}

    # ------------------------------------------------------------------ state

    def state_dict(self, device: torch.device | None) -> dict[str, Any]:
        """What every rank knows. A collective, unless `device` is None."""
        return {
            "ledger": gather_tables(self.ledger, self.labels, device),
            "known": self.known.state_dict(),
            "scored_epoch": self.plan.scored_epoch,
            "learning_rate_factor": self.learning_rate_factor,
            "alarms": self.alarms.state_dict(),
            "selecting": self._selecting,
            "knows": self.knows,
            "sized": self._sized,
        }

    def own_state(self) -> dict[str, Any]:
        """What only this rank knows."""
        return {"seed": self.seed, "doubt": self.doubts.reason, "loss": self.loss, "at_once": self.at_once}

    def load_state_dict(self, state: dict[str, Any], own: dict[str, Any]) -> None:
        """Continue from what the ranks knew of the data set, once that is met, and from what only this one did."""
        if missing := sorted(self.state_dict(None).keys() - state.keys()):
            raise ValueError(f"What a checkpoint remembers must hold {', '.join(missing)}, but it does not. {REMEDY}")
        self._loaded = state if state["sized"] else None  # a finder goes back to before there was any data
        own = check_state("the ledger of a rank", own, self.own_state())
        self.seed, self.doubts.reason = own["seed"], own["doubt"]
        self.loss, self.at_once = own["loss"], own["at_once"]

    def _recollect(self, *, together: bool) -> None:
        ledger, labels = pick_tables(self._apart, together=together)
        self.ledger.load_state_dict(ledger.state_dict())
        self.labels = labels if bool((labels >= 0).any()) else None

    def _restore(self, state: dict[str, Any], size: int) -> None:
        self._apart = state["ledger"]
        self._recollect(together=True)  # which is all there is to know, if the training is over
        if self.ledger.size != size and self._find is None:
            raise ValueError(
                f"{self.ledger.size} examples are remembered from a checkpoint, or an earlier fit of this Trainer, but "
                f"the training data set has {size}, so ids would name others. Go on with the data set of before, or "
                "load the weights into a new run with a new Trainer."
            )
        self.known.load_state_dict(state["known"])
        self._selecting, self.knows = state["selecting"], state["knows"]
        self.doubts.late = self._selecting and self.knows
        self.alarms.load_state_dict(state["alarms"])
        self.plan.scored_epoch = state["scored_epoch"]
        self.learning_rate_factor = state["learning_rate_factor"]
