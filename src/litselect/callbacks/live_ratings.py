"""A rater that learns beside the training."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, distributed, nn

from litselect.callbacks.held_out_data import HeldOutData
from litselect.callbacks.ratings import STATISTICS_FROM, Ratings, seen_by_rater
from litselect.callbacks.student_objective import Declined, Rows, StudentObjective
from litselect.callbacks.student_optimizer import read_optimizer
from litselect.callbacks.trust import Trust
from litselect.scoring.meta_gradients import SGD, Estimator, InnerState, LookAhead, MetaGradient, Window
from litselect.scoring.meta_training.meta_adam import MetaAdam
from litselect.scoring.meta_training.meta_log import agreement
from litselect.scoring.raters import Fields, asks_for, rate
from litselect.scoring.rows import count_rows, take_rows

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from litselect.callbacks.data_rater import DataRater


@dataclass
class RaterCounters:
    """Work that a live rater did, on this rank, in rows.

    Args:
        meta_steps: look-aheads.
        rated: rows that the rater rated.
        trained: rows that went forward and backward through the module in look-aheads.
        scored: rows that went forward alone; a derivative along a direction counts twice.
    """

    meta_steps: int = 0
    rated: int = 0
    trained: int = 0
    scored: int = 0


class LiveRatings(Ratings):
    """Rates candidates, and learns from some of them before.

    Args:
        rater: the network; trained in place.
        heldout: what judges.
        every: batches from one meta-step to the next.
        inner_steps: into how many steps of a look-ahead a batch is split.
        estimator: see `LookAhead`.
        lr: of the rater.
        weight_decay: of the rater.
        warmup: meta-steps over which `lr` rises.
        clip: largest norm of a meta-gradient.
        trust_after: meta-steps before ratings can be trusted.
        fields: finds what a rater sees in a batch.
        seed: of dropout in look-aheads, of the held-out data's order, and of chance while there is no trust; None
            derives it from ``torch.initial_seed()`` at the beginning.
    """

    def __init__(
        self,
        rater: nn.Module,
        heldout: HeldOutData,
        every: int,
        inner_steps: int,
        estimator: Estimator,
        lr: float,
        weight_decay: float,
        warmup: int,
        clip: float,
        trust_after: int,
        fields: Fields,
        seed: int | None,
    ) -> None:
        super().__init__(fields)
        self.needs = STATISTICS_FROM if "statistics" in asks_for(rater) else frozenset()
        self.asks_for_ids = "ids" in asks_for(rater) or heldout.fraction is not None
        self.rater, self.heldout, self.every, self.inner_steps = rater, heldout, every, inner_steps
        self.trust, self.counters = Trust(trust_after), RaterCounters()
        self.outer_loss = float("nan")
        self._spread = torch.zeros(())
        self._estimator: Estimator = estimator
        self._parameters: list[Tensor] = [p for p in rater.parameters() if p.requires_grad]
        self._meta = MetaAdam(self._parameters, 1, lr, weight_decay, warmup, clip)
        self._settings = (lr, weight_decay, warmup, clip)
        self._seed, self._batches = seed, 0
        self._trainer: Trainer | None = None

    def begin(self, callback: DataRater, trainer: Trainer, module: LightningModule) -> None:
        """Meet the module, once it is on its device, and the data; all ranks begin with the rater of the first."""
        self._trainer = trainer
        if self._seed is None:
            self._seed = int(trainer.strategy.broadcast(torch.initial_seed() % 2**63))
        self.heldout.begin(trainer, self._seed)
        self.excluded = self.heldout.excluded
        self.rater.to(module.device).eval()
        state, self._meta = self._meta.state_dict(), MetaAdam(self._parameters, 1, *self._settings)
        self._meta.load_state_dict(state)
        if trainer.world_size > 1:
            for tensor in (*self.rater.parameters(), *self.rater.buffers()):
                distributed.broadcast(tensor.data, 0)
        self._objective = StudentObjective(trainer, module, callback.loss_fn)
        self._look_ahead = LookAhead(self._objective, SGD(), self._estimator)  # whose optimizer changes step by step

    def distrust(self) -> None:
        """Another training begins: compare ratings with look-aheads anew, and hold out what comes."""
        self.trust = Trust(self.trust.after)
        self.heldout.forget()

    def end(self) -> None:
        """Let go of the Trainer and of the held-out loader."""
        self.heldout.end()
        self._trainer = None
        vars(self).pop("_objective", None)
        vars(self).pop("_look_ahead", None)

    def labels_in(self, batch: Any) -> dict[str, Tensor]:
        """See `Ratings`; those that a scoring pass finds come first."""
        return {} if self.needs else super().labels_in(batch)

    def rate(self, batch: Any, ids: Tensor | None, known: dict[str, Any]) -> Tensor:
        """Ratings of the candidates, after a meta-step if it is time for one; chance, while there is no trust.

        Ratings that are independent of the rows draw each subset of them equally often.
        """
        rows = Rows(batch, ids, known)
        if self._batches % self.every == 0:
            self._meta_step(rows)
        self._batches += 1
        n = count_rows(batch)
        self.counters.rated += n
        with torch.no_grad():
            ratings = rate(self.rater, seen_by_rater(self, self.rater, batch, ids, known))
        self._spread = ratings.std(correction=0)
        if self.trust.trusted:
            return ratings
        chance = self._generator(cast("Trainer", self._trainer).global_rank).random(n)
        return torch.tensor(chance, dtype=ratings.dtype).to(ratings.device)

    def _generator(self, stream: int) -> np.random.Generator:
        """A random stream for this batch alone."""
        return np.random.default_rng((cast("int", self._seed), self._batches, stream))

    def _meta_step(self, rows: Rows) -> None:
        trainer, objective = cast("Trainer", self._trainer), self._objective
        seed = int(self._generator(trainer.global_rank + trainer.world_size).integers(2**62))
        parameters, buffers = objective.live()
        clip = float(trainer.gradient_clip_val or 0.0), trainer.gradient_clip_algorithm
        optimizer, moments, steps = read_optimizer(trainer.optimizers[0], parameters, clip)
        state = InnerState([p.detach() for p in parameters], buffers, moments, steps)
        parts = self._parts(rows)
        self._look_ahead.optimizer = optimizer
        objective.batch_idx = max(0, trainer.fit_loop.epoch_loop.batch_idx)
        try:
            with objective.unseen():
                heldout = Rows(self.heldout.next(trainer, seed), None, {})
                self.rater.train()
                found = self._look_ahead(Window(state, parts, heldout, self._see, seed))
        except Declined:  # a batch that is not trained tells nothing
            return
        finally:
            self.rater.eval()
        self._estimator = self._look_ahead.estimator
        self._count(parts, heldout)
        self._learn(found)

    def _learn(self, found: MetaGradient) -> None:
        gradient = torch.autograd.grad(found.weights, self._parameters, found.influences, materialize_grads=True)
        agreements = [agreement(r, c) for r, c in zip(found.ratings, found.influences, strict=True)]
        mean = torch.tensor([sum(agreements) / len(agreements), float(found.loss)], device=found.loss.device)
        gradients = self._over_ranks([*gradient, mean])
        agreed, self.outer_loss = (float(value) for value in gradients.pop())
        norm = self._meta.propose(0, gradients)
        if not norm.isfinite():
            raise FloatingPointError(
                f"The meta-gradient must be finite, but its norm is {float(norm)} at look-ahead {self.trust.steps} of "
                "the rater. The module has diverged, or its loss has no derivative: lower its learning rate."
            )
        self._meta.step()
        self.trust.note(agreed)

    def _over_ranks(self, tensors: list[Tensor]) -> list[Tensor]:
        """Their means over all ranks: one collective."""
        world = cast("Trainer", self._trainer).world_size
        if world == 1:
            return tensors
        flat = torch.cat([t.reshape(-1) for t in tensors])
        distributed.all_reduce(flat)
        parts = torch.tensor_split(flat / world, list(itertools.accumulate(t.numel() for t in tensors))[:-1])
        return [part.reshape(t.shape) for part, t in zip(parts, tensors, strict=True)]

    def _see(self, rows: Rows, state: InnerState) -> Tensor:
        return rate(self.rater, seen_by_rater(self, self.rater, rows.batch, rows.ids, rows.known))

    def _parts(self, rows: Rows) -> list[Rows]:
        """The candidates, split into the steps of a look-ahead; of fewer rows than steps, as they are."""
        n = count_rows(rows.batch)
        if self.inner_steps == 1 or n < self.inner_steps:
            return [rows]
        found: list[Rows] = []
        for part in torch.arange(n).tensor_split(self.inner_steps):
            known = {name: value[part.to(value.device)] for name, value in rows.known.items() if name in self.needs}
            ids = None if rows.ids is None else rows.ids[part.to(rows.ids.device)]
            found.append(Rows(take_rows(rows.batch, part, n), ids, known))
        return found

    def _count(self, parts: list[Rows], heldout: Rows) -> None:
        counters, n = self.counters, sum(count_rows(part.batch) for part in parts)
        counters.meta_steps += 1
        counters.trained += n + count_rows(heldout.batch)
        if self._estimator == "unroll":  # backward once more through forward and backward
            counters.trained += n
        elif len(parts) == 1:
            counters.scored += 2 * n
        else:
            counters.trained += 2 * n

    # ------------------------------------------------------------------ log and state

    def columns(self) -> dict[str, float]:
        """What is logged."""
        return {
            "rater_outer_loss": self.outer_loss,
            "rater_spread": float(self._spread),
            "rater_agreement": self.trust.agreement,
            "rater_trusted": float(self.trust.trusted),
            "rater_meta_steps": float(self.counters.meta_steps),
        }

    def state_dict(self) -> dict[str, Any]:
        """Rater, moments, trust, counters and the place in the held-out data."""
        return {
            "rater": {name: value.detach().cpu().clone() for name, value in self.rater.state_dict().items()},
            "meta": copy.deepcopy(self._meta.state_dict()),
            "trust": self.trust.state_dict(),
            "counters": dict(vars(self.counters)),
            "batches": self._batches,
            "seed": self._seed,
            "estimator": self._estimator,
            "heldout": self.heldout.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.rater.load_state_dict(state["rater"])
        self._meta.load_state_dict(state["meta"])
        self.trust.load_state_dict(state["trust"])
        self.counters = RaterCounters(**state["counters"])
        self._batches, self._seed, self._estimator = state["batches"], state["seed"], state["estimator"]
        self.heldout.load_state_dict(state["heldout"])
