"""Train a rater by meta-gradients.

Calian et al., 2025, "DataRater: Meta-Learned Dataset Curation", https://arxiv.org/abs/2505.17895, algorithm 1.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from litselect.scoring.meta_gradients import (
    Adam,
    Estimator,
    InnerOptimizer,
    LookAhead,
    LossObjective,
    MetaGradient,
    Window,
)
from litselect.scoring.meta_gradients.objective import LossFunction
from litselect.scoring.meta_gradients.private_streams import PrivateStreams, seeded
from litselect.scoring.meta_training.held_out import carve, require_apart
from litselect.scoring.meta_training.learning_check import LearningCheck
from litselect.scoring.meta_training.loader_stream import LoaderStream
from litselect.scoring.meta_training.measured import measured
from litselect.scoring.meta_training.meta_adam import MetaAdam
from litselect.scoring.meta_training.meta_log import MetaLog
from litselect.scoring.meta_training.population import InnerFactory, Population
from litselect.scoring.meta_training.rater_view import RaterView
from litselect.scoring.raters.fields import Fields, default_fields
from litselect.scoring.raters.rater_artifact import RaterArtifact, first_of


class RaterTrainer:
    r"""Learns ratings :math:`\phi(x)` such that training with their softmax as weights lowers a held-out loss.

    Algorithm 1 of the paper. At each meta-step each model of a population trains on for T steps, its examples weighted
    by :math:`w_i = e^{\phi_i} / \sum_j e^{\phi_j}` over the batch; the gradient of the held-out loss after them with
    respect to the rater goes into an Adam of the model's own; the rater moves by the mean of the updates. The models
    persist, and start anew after staggered lifetimes.

    .. code-block:: python

        trainer = RaterTrainer(
            LabelledImageRater(channels=3, classes=10),
            inner_factory=lambda: SmallNet(),
            loss_fn=lambda module, batch: F.cross_entropy(module(batch[0]), batch[1], reduction="none"),
            train_loader=train_loader,
            heldout_loader=0.05,
        )
        trainer.fit().save("rater")

    Cost of a meta-step in plain steps of the inner model: about 6 P for T = 2, 3 P for T = 1 (see `LookAhead`), and T P
    forward and backward passes of the rater. The paper spent 58% of the FLOPs of the training that the rater was for.

    Args:
        rater: any module, see `litselect.scoring.raters.rate`; changed in place.
        inner_factory: makes an inner model, anew for each life; its random initialisation differs.
        loss_fn: ``loss_fn(module, batch) -> Tensor[N]``.
        train_loader: what is rated.
        heldout_loader: what judges, apart from the training data; or a fraction of it that is taken out by index.
        inner_steps: T.
        population: P, how many inner models.
        lifetime: meta-steps after which an inner model starts anew.
        meta_steps: how many.
        meta_lr: learning rate of the rater. Ten times as much is the easiest way to fail.
        estimator: see `LookAhead`.
        inner_optimizer: of the inner models; by default ``Adam(lr=1e-3)``.
        outer_loss_fn: of the held-out batch; by default `loss_fn`.
        weight_decay: of the rater, decoupled.
        warmup: meta-steps over which `meta_lr` rises.
        clip: largest norm of a meta-gradient.
        precision: ``"bf16"`` runs inner models under autocast.
        fields: ``fields(batch) -> {"inputs": ..., "targets": ..., "ids": ...}``, where a batch is no tuple of these.
        seed: of inner models, shuffling and dropout.
        device: by default where the rater is.
        checkpoint: a file to which all state is written every `checkpoint_every` meta-steps, and from which a run goes
            on that finds it.
        checkpoint_every: in meta-steps.
        require_learning: stop with an error if the inner models do not learn.
        progress: show a bar.

    Attributes:
        history: for each meta-step, the outer loss, spread of ratings, norm of the meta-gradient and agreement, see
            `MetaLog`.

    Raises:
        ValueError: if a number is out of range, or held-out examples are trained, too.
        RuntimeError: in `fit`, if the inner models do not learn.
    """

    def __init__(
        self,
        rater: nn.Module,
        inner_factory: InnerFactory,
        loss_fn: LossFunction,
        train_loader: Any,
        heldout_loader: Any,
        *,
        inner_steps: int = 2,
        population: int = 8,
        lifetime: int = 400,
        meta_steps: int = 2000,
        meta_lr: float = 1e-3,
        estimator: Estimator = "auto",
        inner_optimizer: InnerOptimizer | None = None,
        outer_loss_fn: LossFunction | None = None,
        weight_decay: float = 0.1,
        warmup: int = 100,
        clip: float = 0.01,
        precision: Literal["bf16"] | None = None,
        fields: Fields | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 100,
        require_learning: bool = True,
        progress: bool = True,
    ) -> None:
        counts = {"inner_steps": inner_steps, "population": population, "lifetime": lifetime, "meta_steps": meta_steps}
        if wrong := {k: v for k, v in {**counts, "checkpoint_every": checkpoint_every}.items() if v < 1}:
            raise ValueError(f"Expected numbers of at least 1, but got {wrong}. Raise them.")
        if isinstance(heldout_loader, (int, float)):
            train_loader, heldout_loader = carve(train_loader, heldout_loader, seed)
        require_apart(heldout_loader, {"training": train_loader})
        if getattr(train_loader, "batch_size", None) == 1:
            raise ValueError(
                "Weights are shared out within a batch, so a batch must hold several examples, but train_loader has "
                "batch_size=1, whose one example always weighs 1. Raise it."
            )
        first = next((p for p in rater.parameters() if p.requires_grad), None)
        if first is None:
            raise ValueError(
                f"A rater must have parameters to train, but {type(rater).__name__} has none that require gradients. "
                "Unfreeze some."
            )
        self.device = torch.device(device) if device is not None else first.device
        self.rater = rater.to(self.device)
        self.settings: dict[str, Any] = {
            **counts, "meta_lr": meta_lr, "weight_decay": weight_decay, "warmup": warmup, "clip": clip, "seed": seed,
            "precision": precision, "estimator": estimator,
        }  # fmt: skip
        self._meta_steps, self._inner_steps, self._seed = meta_steps, inner_steps, seed
        self._loaders, self._fields = (train_loader, heldout_loader), fields or default_fields
        optimizer = inner_optimizer or Adam(lr=1e-3)
        self.settings["inner_optimizer"] = repr(optimizer)
        with seeded(seed, self.device):
            self.settings["data"] = [first_of(loader, self._fields) for loader in self._loaders]
            objective = LossObjective(inner_factory().to(self.device), loss_fn, outer_loss_fn, precision)
        self._view = RaterView(self.rater, self._fields, objective)
        self._look_ahead = LookAhead(objective, optimizer, estimator)
        self._population = Population(inner_factory, objective, optimizer, population, lifetime, seed, self.device)
        self._train, self._heldout = (LoaderStream(loader, seed + n) for n, loader in enumerate(self._loaders, 1))
        self._parameters: list[Tensor] = [p for p in self.rater.parameters() if p.requires_grad]
        self._meta = MetaAdam(self._parameters, population, meta_lr, weight_decay, warmup, clip)
        self._check = LearningCheck(population) if require_learning else None
        self._log = MetaLog(self._fields)
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        if self._checkpoint is not None:
            self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self._checkpoint_every, self._progress = checkpoint_every, progress
        self._streams = PrivateStreams(seed, self.device)  # what the rater itself draws from, if it has dropout

    @property
    def history(self) -> list[dict[str, float]]:
        """See the class."""
        return self._log.history

    @property
    def estimator(self) -> Estimator:
        """The estimator in use; ``"auto"`` until the first meta-step."""
        return self._look_ahead.estimator

    def fit(self) -> RaterArtifact:
        """Train the rater, from a checkpoint on where there is one; answer with it, frozen.

        Raises:
            RuntimeError: if the inner models do not learn.
            FloatingPointError: if the meta-gradient is NaN or infinite.
        """
        if self._checkpoint is not None and self._checkpoint.exists():
            self.load_state_dict(torch.load(self._checkpoint, map_location="cpu", weights_only=True))
        self.rater.train()
        for p in self._parameters:
            p.requires_grad_()  # an artifact of before froze them
        with tqdm(total=self._meta_steps, initial=len(self.history), disable=not self._progress, unit="step") as bar:
            while len(self.history) < self._meta_steps:
                with self._streams:
                    self._meta_step()
                done = len(self.history)
                bar.update()
                if done % 10 == 0:
                    cast("Any", bar).set_postfix(self._log.shown(), refresh=False)
                if self._checkpoint is not None and done % self._checkpoint_every == 0:
                    self._save(self._checkpoint)
        if self._check is not None:
            self._check.look(last=True)
        self.rater.eval()
        with self._streams:
            quantiles, data = measured(self._loaders, self._fields, self._view, self._population.states[0], self.device)
        fields = None if self._fields is default_fields else self._fields
        return RaterArtifact(self.rater, quantiles, data, {**self.settings, "estimator": self.estimator}, fields)

    def _meta_step(self) -> None:
        number = len(self.history)
        for place, state in enumerate(self._population.states):
            (seed,) = np.random.SeedSequence((self._seed, number, place)).generate_state(1)
            batches = [self._train.next(self.device) for _ in range(self._inner_steps)]
            window = Window(state, batches, self._heldout.next(self.device), self._view, int(seed))
            found = self._look_ahead(window)
            norm = self._meta.propose(place, self._gradient(found))
            if not norm.isfinite():
                raise FloatingPointError(
                    f"The meta-gradient must be finite, but its norm is {float(norm)} at meta-step {number} of inner "
                    f"model {place}. Lower the learning rate of the inner optimizer, or train it in float32."
                )
            self._log.note(window, found, norm)
            self._population.advance(place, found.end)
            if self._check is not None:
                self._check.note(place, float(found.loss))
        self._meta.step()
        self._log.step()
        ended = self._population.renew()
        if self._check is not None and ended:
            for place in ended:
                self._check.ended(place)
            self._check.look()

    def _gradient(self, found: MetaGradient) -> list[Tensor]:
        return list(torch.autograd.grad(found.weights, self._parameters, found.influences, materialize_grads=True))

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All meta state: tensors, numbers and strings."""
        return {
            "settings": self.settings,
            "estimator": self.estimator,
            "rater": self.rater.state_dict(),
            "meta": self._meta.state_dict(),
            "population": self._population.state_dict(),
            "train": self._train.state_dict(),
            "heldout": self._heldout.state_dict(),
            "streams": self._streams.states,
            "check": None if self._check is None else self._check.state_dict(),
            "log": self._log.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, exactly.

        Raises:
            ValueError: if it was made with other settings; `meta_steps` may differ.
        """
        saved = state["settings"]
        own = {**self.settings, "meta_steps": saved.get("meta_steps")}
        if changed := [name for name in own if own[name] != saved.get(name)]:
            raise ValueError(
                "A run goes on with the settings that it began with, but these differ: "
                + ", ".join(f"{name}={saved.get(name)!r}, now {own[name]!r}" for name in changed)
                + ". Put them back, or begin anew with another checkpoint file."
            )
        self._look_ahead.estimator = state["estimator"]
        self.rater.load_state_dict(state["rater"])
        self._meta.load_state_dict(state["meta"])
        self._population.load_state_dict(state["population"])
        self._train.load_state_dict(state["train"])
        self._heldout.load_state_dict(state["heldout"])
        self._streams.states = state["streams"]
        if self._check is not None and state["check"] is not None:
            self._check.load_state_dict(state["check"])
        self._log.load_state_dict(state["log"])

    def _save(self, path: Path) -> None:
        draft = path.with_name(f".{path.name}")
        torch.save(self.state_dict(), draft)
        os.replace(draft, path)  # appears when it is whole
