"""DataRater beside a training.

Calian et al., 2025, "DataRater: Meta-Learned Dataset Curation", https://arxiv.org/abs/2505.17895, whose online variant
this follows; Ren et al., 2018, "Learning to Reweight Examples", https://arxiv.org/abs/1803.09050, for one-step
look-aheads from the live model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from litselect.callbacks.example_selection import ExampleSelection
from litselect.callbacks.held_out_data import HeldOutData
from litselect.callbacks.live_ratings import LiveRatings, RaterCounters
from litselect.callbacks.rater_requirements import check_rater, require_settings
from litselect.scoring import StatisticsRater
from litselect.scoring.meta_gradients import Estimator
from litselect.scoring.meta_gradients.private_streams import seeded
from litselect.scoring.raters import Fields, default_fields
from litselect.selectors import Mixture, RatedSubset, Selector, Stratified

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


class DataRater(ExampleSelection):
    r"""Train the examples that a rater prefers, which learns beside the training what lowers a held-out loss.

    .. code-block:: diff

        -trainer = Trainer(max_epochs=20)
        +trainer = Trainer(max_epochs=20, callbacks=[DataRater(heldout=0.02, keep=0.5)])

    Every few batches one step is looked ahead from the live module: its parameters, buffers and the optimizer's moments
    are read, never written. With the softmax of the ratings as weights of the candidates, the rater moves against the
    gradient of the held-out loss after that step. This aligns gradients one step ahead, exactly for one step; it is not
    the paper's training of a rater through the lives of many models: for that use `RaterTrainer`.

    Until the rater is found to be right about examples it has not learned from (see `Trust`), rows are drawn uniformly:
    at first its sign is as often wrong as right. Rows are drawn from the ratings (Gumbel-top-k), a share of them
    uniformly.

    The rater adapts to the held-out examples. So they are never those of validation, and they can't be trained.

    Cost: the rater's forward pass, and a scoring pass over the candidates for a rater that looks at the statistics of
    the module; every few batches, about 2.7 plain steps of the candidates (with as many held-out rows), see
    `LookAhead`. With ``keep=0.5, every=4`` and statistics that is ``1/3 + 1/2 + 2.7/4`` = 1.5 of plain training: what
    it can buy is accuracy from dirty data, not time.

    Args:
        rater: any module, see `litselect.scoring.raters.rate`; by default a `StatisticsRater`.
        heldout: a loader of examples that are neither trained nor reported; or the fraction of the training data that
            is taken out of it by index.
        keep: fraction of the candidates that is trained.
        every: batches from one look-ahead to the next.
        inner_steps: steps of a look-ahead, into which the candidates are split.
        estimator: see `LookAhead`.
        rater_lr: learning rate of the rater.
        rater_weight_decay: decoupled.
        rater_warmup: look-aheads over which `rater_lr` rises.
        clip: largest norm of a meta-gradient.
        trust_after: look-aheads before ratings can be trusted.
        floor: share of the chosen rows that is drawn uniformly.
        temperature: see `RatedSubset`.
        hard: the highest rated instead of a draw, see `RatedSubset`.
        within_class: see `RatedSubset`.
        stratified: give every class its share of the chosen rows, see `Stratified`.
        fields: where a batch holds inputs and targets, unless it is a pair of these or a mapping with the usual keys.
        seed: of all draws; ``None`` derives it from ``torch.initial_seed()``.
        **settings: every other keyword of `ExampleSelection`.

    Attributes:
        rater: the network.
        rater_counters: what it cost.

    Raises:
        ValueError: if a setting is out of range; at fit start, if held-out examples serve anything else, or if the
            module optimizes manually or with several optimizers, or is sharded.
    """

    def __init__(
        self,
        *,
        rater: nn.Module | None = None,
        heldout: Any,
        keep: float = 0.5,
        every: int = 4,
        inner_steps: int = 1,
        estimator: Estimator = "auto",
        rater_lr: float = 3e-3,
        rater_weight_decay: float = 0.1,
        rater_warmup: int = 50,
        clip: float = 0.01,
        trust_after: int = 20,
        floor: float = 0.1,
        temperature: float = 1.0,
        hard: bool = False,
        within_class: bool = False,
        stratified: bool = False,
        fields: Fields | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        counts = {"every": every, "inner_steps": inner_steps}
        if wrong := {name: value for name, value in counts.items() if value < 1}:
            raise ValueError(f"Expected numbers of at least 1, but got {wrong}. Raise them.")
        selector: Selector = RatedSubset(keep, temperature, hard, within_class, seed=seed)
        if floor:
            selector = Mixture(selector, floor, seed=seed)
        if stratified:
            selector = Stratified(selector, seed=seed)
        with seeded(torch.initial_seed() if seed is None else seed):  # the module's own weights are drawn as ever
            self.rater = rater if rater is not None else StatisticsRater()
        require_settings(self.rater, {"rater_lr": rater_lr, "clip": clip}, settings)
        self.live = LiveRatings(
            self.rater,
            HeldOutData(heldout),
            every,
            inner_steps,
            estimator,
            rater_lr,
            rater_weight_decay,
            rater_warmup,
            clip,
            trust_after,
            fields or default_fields,
            seed,
        )
        super().__init__(selector, ratings=self.live, **settings)

    @property
    def rater_counters(self) -> RaterCounters:
        """Look-aheads, and the rows in them."""
        return self.live.counters

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before the data is loaded."""
        if stage == "fit":
            check_rater(self, trainer, pl_module)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Meet the module and the data."""
        if not self._resumed and trainer.fit_loop.epoch_progress.current.ready == 0:
            self.live.distrust()  # another module than that of an earlier fit
        self.live.begin(self, trainer, pl_module)
        if self.memory is not None and self.live.excluded is not None:
            self.memory.exclude(self.live.excluded)
        super().on_train_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look once more at what the held-out examples serve: loaders may come late."""
        self.live.heldout.require_apart(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """And here."""
        self.live.heldout.require_apart(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same, where Lightning will call no `teardown`."""
        super().on_exception(trainer, pl_module, exception)
        self.live.end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the Trainer and of workers."""
        super().teardown(trainer, pl_module, stage)
        if stage == "fit":
            self.live.end()
