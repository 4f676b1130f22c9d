"""Leaving out what is learned, as a preset."""

from __future__ import annotations

from typing import Any

from litselect.callbacks.example_selection import ExampleSelection
from litselect.selectors import KeepUnlearned


class SkipLearned(ExampleSelection):
    """Train an example as often as the network is still wrong about it; in the second half of the training, all alike.

    .. code-block:: diff

        -trainer = Trainer(max_epochs=20)
        +trainer = Trainer(max_epochs=20, callbacks=[SkipLearned()])

    What to take where nobody knows which law suits the data: at equal cost it gained with many data and with rare
    classes, and lost a quarter of a point with duplicates, where the law without an end loses one or more
    (docs/benchmark/index.md). It is

    .. code-block:: python

        ExampleSelection(KeepUnlearned(), refill=True, end=0.5)

    There is no `keep`: nearly everything is trained at first, and less and less of what is learned, in full batches.
    So an epoch has fewer and fewer steps: with as many epochs as before, a training is shorter. Those gains are of
    trainings that spent what it saves; `Budget` and `BudgetSchedule` hold cost and learning rate to a plan. From the
    middle on everything is trained: a small set that is trained for long is learned by heart, and what is left out by
    then are not the examples that it could do without.

    Cost: training of what is kept; no scoring pass.

    Args:
        refill: see `ExampleSelection`; False makes as many steps as ever, of smaller batches.
        end: see `ExampleSelection`; later, as with 0.75 or 1.0, it gains more of many data and rare classes, and loses
            where few data are trained for long, or are there several times.
        **settings: every other keyword of `ExampleSelection`.

    Raises:
        ValueError: at fit start, where losses can't be remembered or the length of training is not known, see
            `ExampleSelection`.
    """

    def __init__(self, *, refill: bool = True, end: float = 0.5, **settings: Any) -> None:
        super().__init__(KeepUnlearned(), refill=refill, end=end, **settings)
