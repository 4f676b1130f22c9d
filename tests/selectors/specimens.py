"""Selectors for the suite's own sake: sound ones of every kind that is to come, so that it is ready for them."""

from typing import Any

import torch
from torch import Tensor

from litselect.selectors import Selection, Selector
from litselect.selectors.fixed_size import inclusion_probabilities, systematic_sample


def highest(scores: Tensor, k: int) -> Tensor:
    return scores.sort(descending=True, stable=True).indices[:k]


class LeastSure(Selector):
    """Needs logits and targets."""

    def select(self, k: int, *, logits: Tensor, targets: Tensor) -> Selection:
        logits = logits.detach().float()
        return Selection.of(highest(logits.logsumexp(1) - logits.gather(1, targets[:, None]).squeeze(1), k))


class RatedDraw(Selector):
    """Draws by ratings: Gumbel-top-k."""

    def select(self, k: int, *, ratings: Tensor) -> Selection:
        gumbel = -(-self.uniform(ratings.numel(), ratings.device).clamp_min(1e-300).log()).log()
        return Selection.of(highest(ratings.detach().double() / 10 + gumbel, k))


class WeightedDraw(Selector):
    """A fixed number of rows, with weights that make the mean loss unbiased."""

    def select(self, k: int, *, losses: Tensor) -> Selection:
        n, device = losses.numel(), losses.device
        pi = inclusion_probabilities(losses.detach().double() + 1, k)
        rows = systematic_sample(pi, k, self.shuffled(n, device), self.uniform(1, device))
        return Selection.of(rows, k / (n * pi[rows]))


class WeightedCoins(Selector):
    """Any number of rows, none included, and weights."""

    probabilistic = True

    def select(self, k: int, *, losses: Tensor) -> Selection:
        n = losses.numel()
        pi = inclusion_probabilities(losses.detach().double() + 1, k)
        rows = (self.uniform(n, losses.device) < pi).nonzero().squeeze(1)
        return Selection(rows, len(rows) / (n * pi[rows]))


class Remembering(Selector):
    """Ranks by the sum of all losses that it has seen of an example: state by id."""

    def __init__(self, keep: float = 0.5) -> None:
        super().__init__(keep)
        self._total: dict[int, float] = {}

    def select(self, k: int, *, losses: Tensor, ids: Tensor) -> Selection:
        for i, loss in zip(ids.tolist(), losses.detach().tolist(), strict=True):
            self._total[i] = self._total.get(i, 0.0) + loss
        return Selection.of(highest(torch.tensor([self._total[i] for i in ids.tolist()]), k))

    def reset(self) -> None:
        super().reset()
        self._total = {}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "total": dict(self._total)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._total = dict(state["total"])


class Wrapper(Selector):
    """Hands everything on, what is set from outside too."""

    def __init__(self, inner: Selector) -> None:
        self.inner = inner
        super().__init__(inner.keep)
        self.needs = inner.needs
        self.probabilistic = inner.probabilistic

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("rank", "default_seed"):
            setattr(self.inner, name, value)

    def select(self, k: int, *, device: torch.device, **scores: Any) -> Selection:
        return self.inner(**scores, k=k)

    def reset(self) -> None:
        self.inner.reset()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
