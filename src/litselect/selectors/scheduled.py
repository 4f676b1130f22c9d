"""Change how many rows are trained while the training goes on.

Self-paced learning (Kumar et al., 2010, NIPS) grows the chosen share; dynamic pruning returns to all data late in
training: Qin et al., 2024, "InfoBatch", https://arxiv.org/abs/2303.04947
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from litselect.selectors.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from litselect.selectors.selection import Selection
    from litselect.selectors.selector import Selector


class Scheduled(Wrapper):
    r"""Let `keep` depend on the progress t of the training: :math:`k = \mathrm{round}(\mathrm{keep}(t)\, N)`.

    ``(start, end)`` stands for :math:`\mathrm{start} + t\, (\mathrm{end} - \mathrm{start})`. `progress`, in [0, 1], is
    set from outside (the callback does) and 0 before. The other settings of the wrapped selector stay as they are,
    beta of `LossPercentile` among them.

    Needs: what the wrapped selector needs.  State: the wrapped state; progress is not part of it.  Cost: none.

    Args:
        selector: chooses k rows.
        keep: two fractions, or a function from progress to a fraction.

    Raises:
        ValueError: if a fraction is outside (0, 1], or the number of rows is the wrapped selector's choice.

    >>> from litselect.selectors import RandomSubset
    >>> select = Scheduled(RandomSubset(seed=0), keep=(1.0, 0.5))
    >>> select.progress = 0.5
    >>> len(select(candidates=8))
    6
    """

    def __init__(self, selector: Selector, keep: tuple[float, float] | Callable[[float], float]) -> None:
        super().__init__(selector)
        self.follows_progress = True
        if self.probabilistic:
            raise ValueError(
                f"Scheduled sets the number of rows, but {selector!r} chooses how many. "
                "Use a selector with a fixed number, such as LossPercentile(fixed_size=True)."
            )
        if not callable(keep) and not (isinstance(keep, Sequence) and len(keep) == 2):  # pyright: ignore[reportUnnecessaryIsInstance] - users
            raise ValueError(f"Expected `keep` to be (start, end), such as (1, 0.3), or a function, but got {keep!r}.")
        self.memoryless = not callable(keep)  # which may look at anything
        self.schedule = keep if callable(keep) else (_check(float(keep[0])), _check(float(keep[1])))
        self.keep = self._keep_at(self.progress)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in self._HANDED_ON and "schedule" in self.__dict__:
            self.keep = self._keep_at(self.progress)  # not that of the wrapped selector

    def _keep_at(self, progress: float) -> float:
        if callable(self.schedule):
            return _check(self.schedule(progress))
        start, end = self.schedule
        return start + min(1.0, max(0.0, progress)) * (end - start)

    def count(self, n: int) -> int:
        """How many of `n` candidates are trained now: at least one."""
        return max(1, round(self.keep * n))

    def select(self, k: int, *, candidates: int, device: torch.device, **scores: Any) -> Selection:
        """The wrapped selector's choice of k rows."""
        return self.selector(**scores, candidates=candidates, k=k)

    def __repr__(self) -> str:
        return f"Scheduled({self.selector!r}, keep={self.schedule!r})"


def _check(fraction: float) -> float:
    if not 0 < fraction <= 1:
        raise ValueError(
            f"`keep` is the fraction of each batch that is trained and must stay in (0, 1], but got {fraction!r}. "
            "Pass (start, end), such as keep=(1.0, 0.3), or a function whose values lie there."
        )
    return fraction
