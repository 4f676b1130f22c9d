"""Training on probably right labels as a preset.

Shen and Sanghavi, 2019, "Learning with Bad Training Data via Iterative Trimmed Loss Minimization",
https://arxiv.org/abs/1810.11874; withholding more and more: Han et al., 2018, "Co-teaching",
https://arxiv.org/abs/1804.06872
"""

from __future__ import annotations

from numbers import Real
from typing import Any

from litselect.callbacks.example_selection import ExampleSelection
from litselect.selectors import Mixture, NoiseGuard, RandomSubset


class TrimmedLoss(ExampleSelection):
    r"""Withhold the highest remembered losses, more and more of them, and train the rest evenly.

    .. code-block:: diff

        -trainer = Trainer(max_epochs=20)
        +trainer = Trainer(max_epochs=20, callbacks=[TrimmedLoss(noise=0.4)])

    Against wrong labels: a label that is wrong keeps a high loss for as long as it isn't learned by heart. Losses are
    those that training computed anyway, ranked over the whole data set once an epoch; what was never trained comes
    first. After the first epoch rows are chosen before they are loaded. It is

    .. code-block:: python

        ExampleSelection(
            Mixture(NoiseGuard(RandomSubset(keep), drop_top=noise, ramp=ramp), uniform), scoring="ledger", warmup=0
        )

    with a `keep` for which all that is not withheld is trained once in each pass, when all of `noise` is withheld.

    With few wrong labels it does not pay, as the hardest right examples are withheld, too: in the benchmark
    (docs/benchmark/index.md) it gained 1 to 1.6 points with 40 %, nothing with 20 %, and lost .9 with 10 %.

    Cost: training of `keep` of each batch; no scoring pass.

    Args:
        noise: share of labels that you believe to be wrong, in (0, 1).
        ramp: share of the training over which what is withheld grows from nothing to `noise`; see `NoiseGuard`.
        uniform: share of the trained rows that is drawn among all, the withheld ones too, so that their losses are
            renewed; see `Mixture`.
        keep: fraction of each batch that is trained; ``None`` is
            :math:`(1 - \mathrm{noise}) / (1 - \mathrm{noise} \cdot \mathrm{uniform})`, .64 for a `noise` of 0.4.
        seed: seed of the draws; ``None`` derives it from ``torch.initial_seed()``.
        **settings: every other keyword of `ExampleSelection`.

    Raises:
        ValueError: if a share is out of range; at fit start, where losses can't be remembered, see `ExampleSelection`.
    """

    def __init__(
        self,
        noise: float,
        *,
        ramp: float = 0.3,
        uniform: float = 0.15,
        keep: float | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        if not (isinstance(noise, Real) and 0 < noise < 1):  # pyright: ignore[reportUnnecessaryIsInstance] - users
            raise ValueError(
                f"`noise` is the share of labels that you believe to be wrong, in (0, 1), but got {noise!r}. Of clean "
                "data the hardest examples would be withheld: for those use no TrimmedLoss."
            )
        kept = (1 - noise) / (1 - noise * uniform) if keep is None else keep
        law = NoiseGuard(RandomSubset(kept, seed=seed), noise, ramp=ramp)
        given: dict[str, Any] = {"warmup": 0, **settings}
        if not {"rescore_every", "max_age"} & settings.keys():
            given.setdefault("scoring", "ledger")
        super().__init__(Mixture(law, uniform), **given)
