"""Selective-Backprop as a preset.

Jiang et al., 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers", https://arxiv.org/abs/1910.00762
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from litselect.callbacks.default_scoring import DefaultScoring, asks_where_from, default_floor
from litselect.callbacks.example_selection import ExampleSelection
from litselect.selectors import LossPercentile

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


class SelectiveBackprop(ExampleSelection):
    r"""Train the examples of each batch whose loss is high among recent ones.

    .. code-block:: diff

        -trainer = Trainer(max_epochs=20)
        +trainer = Trainer(max_epochs=20, callbacks=[SelectiveBackprop(keep=1/3)])

    Each candidate is trained with probability :math:`\mathrm{CDF}_R(\mathrm{loss})^\beta`, :math:`\beta = 1 /
    \mathrm{keep} - 1`. By default exactly ``round(keep * N)`` rows of every batch are drawn so that their inclusion
    probabilities are proportional to the law. With ``refill=True`` the paper's algorithm is followed to the letter:
    independent draws, whose rows are collected until they fill a training batch.

    Unless told otherwise, losses are those that training computed anyway (``scoring="ledger"``): what was never trained
    comes first; once each example was, it ranks by its last known loss among all of the data set. After the first epoch
    rows are chosen before they are loaded, so that hooks see the chosen ones alone (``skip_loading=False`` loads all).
    A training of fewer than ``2 / keep`` epochs begins with an epoch of all rows.

    A scoring pass over each batch takes over, and one line of the log says why, where losses can't be remembered:
    where the ids of the examples are not known (iterable data sets, several loaders, collate functions that drop rows,
    ranks that share no data set), training computes its losses unseen (`loss_fn`, ``example_losses``, compiled
    modules), rows are two examples (mixup), or the training is over, or leaves examples out (`limit_train_batches`),
    before they are known. All ranks do the same, and a resumed run goes on as it did.

    ``scoring=ScoringPass()`` always means the pass: about ``1/3 + keep`` of plain training, see `ScoringPass` for
    cheaper ones. So do `refill`, `across_ranks`, `reuse_forward`, ``ledger=True`` (a table beside the pass) and, unless
    ``scoring="ledger"`` stands beside it, a `warmup` below one epoch, in which nothing is known. ``rescore_every=n`` is
    the paper's Stale Selective-Backprop, which scores every n-th epoch; ``scoring="auto"`` measures which pass is
    cheapest here. See `ExampleSelection` for all.

    Cost: training of ``keep`` of each batch; and a pass over it, where there is one.

    Args:
        keep: expected fraction of the examples that is trained, in (0, 1]; 0.5 unless `beta` is given.
        beta: selectivity in place of `keep`; ``keep = 1 / (1 + beta)``.
        history: R, how many recent losses the distribution is taken over, beside a pass.
        floor: least probability with which any example is trained; at most `keep`. ``None`` is 0 beside a pass or
            `refill`; beside remembered losses it is 0.1, or half of `keep` where that is less, so that the loss of each
            example is renewed now and then.
        refill: the paper's batch assembly.
        seed: seed of the draws; ``None`` derives it from ``torch.initial_seed()``.
        warmup: train on everything at first, as the authors' code does for one epoch; ``"auto"`` is that, or, beside a
            pass, a tenth of the training where that is shorter; beside remembered losses 0, where the training has
            ``2 / keep`` epochs or more and did not ask for ``scoring="ledger"``, which means one.
        **settings: every other keyword of `ExampleSelection`.

    Raises:
        ValueError: see `ExampleSelection` and `LossPercentile`.
    """

    def __init__(
        self,
        keep: float | None = None,
        *,
        beta: float | None = None,
        history: int = 1024,
        floor: float | None = None,
        refill: bool = False,
        seed: int | None = None,
        warmup: float | Literal["auto"] = "auto",
        **settings: Any,
    ) -> None:
        law = LossPercentile(keep, beta=beta, history=history, floor=floor or 0.0, fixed_size=not refill, seed=seed)
        remembers = not asks_where_from(refill, warmup, settings)
        if settings.get("nonfinite") == "drop" and warmup == "auto":
            warmup = 0  # in which all rows are trained
        if remembers:
            settings["scoring"] = "ledger"
        if floor is None and not refill and settings.get("scoring") == "ledger":
            law.floor = default_floor(law.keep)
        super().__init__(law, refill=refill, warmup=warmup, **settings)
        self._default = DefaultScoring(self, law, floor, warmup) if remembers else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Decide by the module where scores come from."""
        if self._default is not None and stage == "fit":
            self._default.begin(trainer, pl_module)
        super().setup(trainer, pl_module, stage)
        if self._default is not None:
            self._default.listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide by the loader."""
        if self._default is not None:
            self._default.start()
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide by what the epoch before has shown."""
        if self._default is not None:
            self._default.agree()
        super().on_train_epoch_start(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint, and go on selecting as the training did."""
        if self._default is not None and self._fits:
            self._default.resume(state_dict)
        super().load_state_dict(state_dict)
