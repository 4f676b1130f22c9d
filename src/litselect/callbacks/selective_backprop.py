"""Selective-Backprop as a preset.

Jiang et al., 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers", https://arxiv.org/abs/1910.00762
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from litselect.callbacks.cheapest_precision import cheapest_precision
from litselect.callbacks.example_selection import ExampleSelection
from litselect.scoring import ScoringPass
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

    Cost: one scoring pass over each batch, then training of ``keep`` of it. Scores are computed in bfloat16 where
    training is in fp32 and the hardware has units for it, which chooses the same rows at half the price: together about
    ``0.2 + keep`` of plain training. Elsewhere it is about ``1/3 + keep``, so that nothing is gained above ``keep =
    2/3``. Cheaper scores come from remembered losses: ``rescore_every=n`` is the paper's Stale Selective-Backprop,
    which scores every n-th epoch; ``scoring="ledger"`` selects by the losses that training computed anyway, at the cost
    of ``keep`` alone (pass a `floor` with it, so that each example's loss is renewed now and then). See
    `ExampleSelection` for both. ``scoring="auto"`` measures. All are compared in docs/speed.md.

    Args:
        keep: expected fraction of the examples that is trained, in (0, 1].
        beta: selectivity in place of `keep`; ``keep = 1 / (1 + beta)``.
        history: R, how many recent losses the distribution is taken over.
        floor: least probability with which any example is trained, so that none is forgotten; at most `keep`.
        refill: the paper's batch assembly.
        seed: seed of the draws; ``None`` derives it from ``torch.initial_seed()``.
        warmup: train on everything at first, as the authors' code does for one epoch; ``"auto"`` is one epoch, or a
            tenth of the training where that is shorter.
        scoring: see `ExampleSelection`; by default a scoring pass in the precision that costs least.
            ``ScoringPass()`` is the plain one.
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
        floor: float = 0.0,
        refill: bool = False,
        seed: int | None = None,
        warmup: float | Literal["auto"] = "auto",
        scoring: ScoringPass | Literal["ledger", "auto"] | None = None,
        **settings: Any,
    ) -> None:
        selector = LossPercentile(keep, beta=beta, history=history, floor=floor, fixed_size=not refill, seed=seed)
        super().__init__(selector, refill=refill, warmup=warmup, scoring=scoring, **settings)
        self._cheapest = scoring is None and not self.reuse_forward

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose a precision for scoring, where none was asked for."""
        if stage == "fit" and self._cheapest:
            self.scoring = ScoringPass(precision=cheapest_precision(trainer))
        super().setup(trainer, pl_module, stage)
