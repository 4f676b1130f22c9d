"""A selector around a selector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Set

    from jaxtyping import Int
    from torch import Tensor

    from litselect.selectors.selection import Selection


class Wrapper(Selector):
    """What all wrappers share: they hand on what is set from outside, and need what the wrapped selector needs.

    k counts from the N candidates that the outermost selector was given. A wrapper has a random stream of its own,
    which differs from that of the wrapped selector even where the seed is the same.

    Args:
        selector: what is wrapped.
        needs: what the wrapper looks at itself.
        seed: of the wrapper's own draws; ``None`` takes the wrapped selector's. See `Selector`.
        generator: see `Selector`.

    Raises:
        TypeError: if `selector` is none.
    """

    _derived = frozenset({"needs"})
    _HANDED_ON = ("rank", "default_seed", "progress", "epoch", "epochs")

    def __init__(
        self,
        selector: Selector,
        *,
        needs: frozenset[str] = frozenset(),
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        given: Any = selector
        if not isinstance(given, Selector):
            raise TypeError(
                f"{type(self).__name__} wraps a selector, such as LossPercentile(keep=0.5), but got {given!r}. "
                "Pass the selector first."
            )
        super().__init__(selector.keep, seed=seed, generator=generator)
        self.needs = selector.needs | needs
        self.probabilistic = selector.probabilistic
        self.at_least = selector.at_least
        self.weighted = selector.weighted
        self.remembers = selector.remembers
        self.compensates = selector.compensates
        self.follows_progress = selector.follows_progress
        self._own_needs = needs
        self._stream = (len(selector._stream) + 1, *selector._stream)
        for name in self._HANDED_ON:
            setattr(self, name, getattr(selector, name))
        self.selector = selector

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in self._HANDED_ON and "selector" in self.__dict__:
            setattr(self.selector, name, value)
            self.keep = self.selector.keep

    @property
    def wants(self) -> frozenset[str]:
        """What the wrapped selector wants and the wrapper itself needs."""
        return self.selector.wants | self._own_needs

    def uses(self, given: Set[str]) -> frozenset[str]:
        """What the next call can't do without, see `Selector.uses`."""
        return self.selector.uses(given) | self._own_needs

    @property
    def foreseeable(self) -> bool:
        """Whether both are, see `Selector.foreseeable`."""
        return super().foreseeable and self.selector.foreseeable

    def _own_seed(self) -> int | None:
        return self.selector._own_seed() if self.seed is None else self.seed

    def count(self, n: int) -> int:
        """How many of `n` candidates are trained: what the wrapped selector says."""
        return self.selector.count(n)

    def _choose_among(self, rows: Int[Tensor, " rows"], k: int, scores: dict[str, Any]) -> Selection:
        """The wrapped selector's choice of `k` among `rows`; its indices count within them."""
        part: dict[str, Any] = {
            name: score.index_select(0, rows.to(score.device)) if isinstance(score, torch.Tensor) else score
            for name, score in scores.items()
        }
        return self.selector(**part, candidates=len(rows), k=k)

    def draw_for(self, *place: int) -> None:
        """Begin the streams of both."""
        super().draw_for(*place)
        self.selector.draw_for(*place)

    def reset(self) -> None:
        """Reset both."""
        super().reset()
        self.selector.reset()

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {**super().state_dict(), "selector": self.selector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        super().load_state_dict(state)
        self.selector.load_state_dict(state["selector"])
