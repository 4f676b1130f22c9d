"""The ledger of a training, and how batches find their entries in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from litselect.callbacks.alarms import Alarms
from litselect.callbacks.id_tap import IdTap
from litselect.callbacks.merge_ranks import highest, merge_ranks
from litselect.callbacks.score_plan import ScorePlan
from litselect.callbacks.tapped_sampler import Decide
from litselect.scoring import Ledger, Scores
from litselect.scoring.known_scores import KnownScores
from litselect.scoring.loss_ranks import LossRanks
from litselect.scoring.predictions import is_mixed, predictions

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from pytorch_lightning import Trainer

    from litselect.selectors import Selection

FindIds = Callable[[Any], Tensor]
"""``ids(batch) -> Tensor[N]`` int64: the position of each example in the data set."""


class ExampleMemory:
    """Remembers the losses of examples under their ids.

    Args:
        plan: where scores come from.
        find: where a batch holds its ids; otherwise they are read off the loader's batch sampler.
        decide: which rows of a batch are loaded, see `Decide`; None loads all.
    """

    def __init__(self, plan: ScorePlan, find: FindIds | None, decide: Decide | None) -> None:
        self.plan = plan
        self.ledger = Ledger(1)
        self.known = KnownScores(self.ledger)
        self.ranks = LossRanks()
        self.labels: Tensor | None = None  # [size] int32, the class of each example, -1 where it is not known
        self.alarms = Alarms()
        self._selecting = False  # whether this epoch selects from its beginning
        self.seed = torch.initial_seed()  # of choices that are made before a batch is loaded
        self._find = find
        self._frozen = decide is not None
        self._tap = IdTap(decide or (lambda place, length, ids: None))
        self._strategy: Any = None
        self._loaded: dict[str, Any] | None = None
        self._sized = False

    # ------------------------------------------------------------------ a training begins and ends

    def attach(self, trainer: Trainer) -> None:
        """See every training loader before it is iterated, until `detach`."""
        strategy: Any = trainer.strategy
        process = strategy.process_dataloader

        def process_then_tap(loader: Any) -> Any:
            loader = process(loader)
            if trainer.training:
                self._meet(loader)
            return loader

        self._strategy = strategy
        strategy.process_dataloader = process_then_tap

    def detach(self) -> None:
        """Put everything back. Harmless when called again."""
        if self._strategy is not None:
            self._strategy.__dict__.pop("process_dataloader", None)
            self._strategy = None
        self._tap.close()

    def _meet(self, loader: Any) -> None:
        """Tap a loader; the first one tells the size of the ledger."""
        if self._find is None:
            self._tap.open(loader)
        if self._sized:
            return
        self._sized = True
        try:
            size = len(loader.dataset)
        except (AttributeError, TypeError):
            size = 1  # grows with the ids that arrive
        self.ledger = Ledger(size)
        self.known = KnownScores(self.ledger, frozen=self._frozen)
        if self._loaded is not None:
            self._restore(self._loaded, size)
            self._loaded = None

    def take_over(self, other: ExampleMemory) -> None:
        """Go on from what `other` remembers, of the same data set."""
        self._loaded = other.state_dict(None)
        self.ranks.load_state_dict(other.ranks.state_dict())

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
        self.share(device)
        self.known.begin_epoch(step)
        self.plan.begin_epoch(epoch, active)
        if epoch:
            self.alarms.look(self.ledger, self.labels, keep, selecting=self._selecting)
        self._selecting = active

    def share(self, device: torch.device) -> None:
        """Let every rank know what the others learned. A collective."""
        merge_ranks(self.ledger, device)
        labels = torch.full((self.ledger.size,), -1, dtype=torch.int32) if self.labels is None else self.labels
        labels = highest(labels, device)  # a rank that met none takes part
        self.labels = labels if self.labels is not None or bool((labels >= 0).any()) else None

    def recall(self, ids: Int[Tensor, " batch"]) -> dict[str, Any]:
        """What is known of `ids`, see `KnownScores.of`, and their classes, where the loss told them."""
        known = self.known.of(ids)
        if self.labels is not None:
            known["targets"] = self.labels[ids.to(self.labels.device)].long().to(ids.device)
        return known

    def arrive(self, trainer: Trainer, batch: Any, batch_idx: int, n: int) -> tuple[Tensor, Selection | None]:
        """The ids of a batch's candidates; and which of them are the rows that arrived, where that was decided before.

        Raises:
            RuntimeError: if its rows are not those that its sampler sent for.
            ValueError: if `ids` finds anything but one integer a row.
        """
        device = self.ledger.loss.device
        if self._find is not None:
            ids = _validated(self._find(batch), n).to(device)
            if int(ids.max()) >= self.ledger.size:
                self.ledger.grow(max(2 * self.ledger.size, int(ids.max()) + 1))
            return ids, None
        delivery = self._tap.delivery(trainer, batch_idx)
        if len(delivery.loaded) != n:
            raise RuntimeError(
                f"A batch of {n} rows arrived, but the batch sampler had sent {len(delivery.loaded)} indices for it: "
                "the collate function adds or drops rows. Let the batch hold the ids of its examples (their positions "
                "in the data set), and pass `ids=lambda batch: ...`, which finds them there."
            )
        return torch.tensor(delivery.ids).to(device, non_blocking=True), delivery.selection

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

    def scored(self, ids: Int[Tensor, " batch"], scores: Scores, step: int) -> None:
        """Enter the losses of a scoring pass."""
        self.ledger.score(ids)
        self._enter(ids, scores, step, None)

    def trained(
        self, ids: Int[Tensor, " batch"], scores: Scores | None, step: int, inclusion: Float[Tensor, " batch"] | None
    ) -> None:
        """Count trained rows, and enter their losses where those were overheard.

        Args:
            ids: whose.
            scores: their losses.
            step: the number of the batch.
            inclusion: the probabilities with which they were chosen; None where all were trained.
        """
        self.ledger.train(ids)
        if scores is not None:
            self._enter(ids, scores, step, None if inclusion is None else 1 / inclusion.clamp_min(1e-6))

    def _enter(self, ids: Tensor, scores: Scores, step: int, weights: Tensor | None) -> None:
        device = ids.device
        self.ranks.append(scores.losses, weights)
        self.ledger.record(ids, scores.losses.to(device), self.ranks.percentile(scores.losses).to(device), step)
        if (predicted := predictions(scores)) is not None:
            confidences, correct = predicted
            self.ledger.predict(ids, confidences.to(device), correct.to(device), step)
            self._label(ids, cast("Tensor", scores.targets))

    def _label(self, ids: Tensor, targets: Tensor) -> None:
        if targets.ndim != 1 or targets.is_floating_point():
            return
        if self.labels is None:
            self.labels = torch.full((self.ledger.size,), -1, dtype=torch.int32, device=self.ledger.loss.device)
        missing = self.ledger.size - len(self.labels)
        if missing > 0:
            self.labels = torch.cat([self.labels, self.labels.new_full((missing,), -1)])
        self.labels[ids.to(self.labels.device)] = targets.to(self.labels)

    @staticmethod
    def check(scores: Scores) -> None:
        """Refuse rows that are made of two examples each.

        Raises:
            ValueError: if a target is shared by two classes.
        """
        if is_mixed(scores):
            raise ValueError(
                "A ledger remembers losses under the id of one example, but rows whose targets are shared by two "
                "classes were received, as mixup and cutmix in the collate function make them. Mix in training_step "
                "behind the selection, or score every batch: scoring=ScoringPass(), rescore_every=1, max_age=0."
            )

    # ------------------------------------------------------------------ state

    def state_dict(self, device: torch.device | None) -> dict[str, Any]:
        """What all ranks know together. A collective."""
        ledger = Ledger(self.ledger.size)
        ledger.load_state_dict(self.ledger.state_dict())
        if device is not None:
            merge_ranks(ledger, device)
        return {
            "ledger": ledger.state_dict(),
            "known": self.known.state_dict(),
            "scored_epoch": self.plan.scored_epoch,
            "seed": self.seed,
            "labels": None if self.labels is None else self.labels.to("cpu", copy=True),
            "alarms": self.alarms.state_dict(),
            "selecting": self._selecting,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, once the data set is met."""
        self._loaded = state

    def _restore(self, state: dict[str, Any], size: int) -> None:
        self.ledger.load_state_dict(state["ledger"])
        if self.ledger.size != size and self._find is None:
            raise ValueError(
                f"The checkpoint remembers {self.ledger.size} examples, but the training data set has {size}, so ids "
                "would name others. Resume with the data set of the checkpoint, or load its weights into a new run."
            )
        self.known.load_state_dict(state["known"])
        self.labels, self._selecting = state["labels"], state["selecting"]
        self.alarms.load_state_dict(state["alarms"])
        self.plan.scored_epoch, self.seed = state["scored_epoch"], state["seed"]


def _validated(ids: Any, n: int) -> Tensor:
    if not isinstance(ids, Tensor) or ids.shape != (n,) or ids.is_floating_point() or bool((ids < 0).any()):
        got = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(
            f"`ids` must find one integer >= 0 for each row of the batch, a tensor of shape ({n},), but found {got}. "
            "Pass a function such as `ids=lambda batch: batch[2]`."
        )
    return ids.long()
