"""Selectors that break the contract, each in one way: what the suite must notice."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from litselect.selectors import InfoBatch, LossPercentile, RandomSubset, Selection, Selector, TopLoss
from litselect.selectors.fixed_size import inclusion_probabilities, systematic_sample
from tests.selectors.case import Case
from tests.selectors.specimens import Remembering, WeightedDraw, highest


class Rule(Selector):
    """Chooses by any function of (losses, k)."""

    def __init__(self, keep: float, rule: Callable[[Tensor, int], Any]) -> None:
        super().__init__(keep)
        self.rule = rule

    def select(self, k: int, *, losses: Tensor) -> Selection:
        answer = self.rule(losses, k)
        return Selection.of(answer) if isinstance(answer, Tensor) else answer


def rule(name: str, function: Callable[[Tensor, int], Any], **traits: Any) -> Case:
    return Case(name, lambda keep, seed: Rule(keep, function), **traits)


def made(name: str, kind: Callable[..., Selector], **traits: Any) -> Case:
    return Case(name, lambda keep, seed: kind(keep=keep, seed=seed), **traits)


def top(losses: Tensor, k: int) -> Tensor:
    return highest(losses, k)


# ---------------------------------------------------------------------- faults that need a class of their own


class Lenient(TopLoss):
    """Looks at nothing before it begins."""

    def _validate(self, given: dict[str, Tensor], candidates: int | None) -> int:
        return len(next(iter(given.values()))) if given else candidates or 0


class Clamped(TopLoss):
    """Bends a wrong k."""

    def __call__(self, *, losses: Tensor, k: int | None = None, **rest: Any) -> Selection:
        return super().__call__(losses=losses, k=None if k is None else min(max(k, 1), len(losses)))


class AnyKeep(TopLoss):
    """Bends a wrong keep."""

    def __init__(self, keep: float = 0.5) -> None:
        super().__init__(min(max(keep, 0.01), 1.0))


class Distracted(Selector):
    """Looks at what it does not need."""

    def select(self, k: int, *, losses: Tensor, ratings: Tensor | None = None) -> Selection:
        return Selection.of(highest(losses if ratings is None else -ratings.nan_to_num() - torch.arange(9), k))


class Counting(TopLoss):
    """Says that a choice leaves nothing behind, and counts."""

    memoryless = True

    def __init__(self, keep: float) -> None:
        super().__init__(keep)
        self.calls = 0

    def select(self, k: int, *, losses: Tensor) -> Selection:
        self.calls += 1
        return super().select(k, losses=losses)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "calls": self.calls}


class Wandering(Counting):
    """The same, and goes by the count."""

    memoryless = True

    def select(self, k: int, *, losses: Tensor) -> Selection:
        self.calls += 1
        return super().select(k, losses=losses.roll(self.calls))

    def state_dict(self) -> dict[str, Any]:
        return {}


class Bernoulli(RandomSubset):
    """Does not say that it is probabilistic."""

    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        return Selection((self.uniform(candidates, device) < self.keep).nonzero().squeeze(1))


class FirstRowsLikelier(RandomSubset):
    """Draws by position."""

    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        return Selection.of(highest(self.uniform(candidates, device) - torch.arange(candidates) / candidates, k))


class Comb(RandomSubset):
    """Takes every other row: each as often as it should, but neighbours never together."""

    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        pi = torch.full((candidates,), k / candidates, dtype=torch.float64)
        return Selection(systematic_sample(pi, k, torch.arange(candidates), self.uniform(1, device)))


class OrdinalRanks(Selector):
    """Draws by the rank, where equal losses have unequal ranks."""

    def select(self, k: int, *, losses: Tensor) -> Selection:
        ranks = losses.sort(stable=True).indices.argsort().double() + 0.5
        order, start = self.shuffled(len(losses), losses.device), self.uniform(1, losses.device)
        return Selection(systematic_sample(inclusion_probabilities(ranks, k), k, order, start))


class Unnormalised(WeightedDraw):
    """Weighs by 1 / pi."""

    def select(self, k: int, *, losses: Tensor) -> Selection:
        answer = super().select(k, losses=losses)
        assert answer.weights is not None
        return Selection(answer.indices, answer.weights * len(losses) / k)


class Unweighing(WeightedDraw):
    """Weighs all alike."""

    def select(self, k: int, *, losses: Tensor) -> Selection:
        return Selection(super().select(k, losses=losses).indices, torch.ones(k))


class GlobalTorch(RandomSubset):
    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        return Selection.of(torch.randperm(candidates)[:k])


class GlobalNumpy(RandomSubset):
    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        return Selection.of(torch.from_numpy(np.random.permutation(candidates)[:k]))  # noqa: NPY002


class GlobalPython(RandomSubset):
    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        return Selection.of(torch.tensor(random.sample(range(candidates), k)))


class OwnSeeding(RandomSubset):
    """A stream that is begun in some other way."""

    def begin(self) -> torch.Generator:
        raise NotImplementedError

    @property
    def generator(self) -> torch.Generator:
        if self._generator is None:
            self._generator = self.begin()
        return self._generator


class OneSeed(OwnSeeding):
    def begin(self) -> torch.Generator:
        return torch.Generator().manual_seed(1 + self.rank)


class OneRank(OwnSeeding):
    def begin(self) -> torch.Generator:
        return torch.Generator().manual_seed(torch.initial_seed() if self.seed is None else self.seed)


class PlainSeedsOnly(OwnSeeding):
    def begin(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed if type(self.seed) is int else 0)


class Hasty(RandomSubset):
    """Its repr begins the random stream."""

    def __repr__(self) -> str:
        return f"Hasty(keep={self.keep!r}, seed={self.seed!r})"[: 100 + self.generator.initial_seed() * 0]


class StateLost(RandomSubset):
    def state_dict(self) -> dict[str, Any]:
        return {}


class StateKept(RandomSubset):
    """Keeps what it has drawn when it loads a state from before the first draw."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            super().load_state_dict(state)


class StateAliased(Remembering):
    """Hands out its memory itself."""

    def state_dict(self) -> dict[str, Any]:
        return {"total": self._total}


class Unforgetting(RandomSubset):
    def reset(self) -> None:
        pass


class SharedByCopies(RandomSubset):
    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedByCopies":
        self.generator  # noqa: B018 - begins it
        return copy.copy(self)


class Taciturn(TopLoss):
    def __repr__(self) -> str:
        return "Taciturn()"


class BatchRank(LossPercentile):
    """For `test_loss_percentile`: ranks within the batch, forgets all before."""

    def select(self, k: int, *, losses: Tensor) -> Selection:
        self.reset_losses()
        return super().select(k, losses=losses)

    def reset_losses(self) -> None:
        self._losses = type(self._losses)(self.history)


class WeightedWithoutReplacement(LossPercentile):
    """For `test_loss_percentile`: draws one row after the other with the law as weights, as rivals do."""

    def select(self, k: int, *, losses: Tensor) -> Selection:
        self._losses.append(losses)
        law = self._losses.percentile(losses) ** self.beta
        return Selection.of(torch.multinomial(law, k, generator=self.generator))


class EasyLikelier(LossPercentile):
    def select(self, k: int, *, losses: Tensor) -> Selection:
        return super().select(k, losses=-losses)


class Bare(Selector):
    def select(self, k: int, *, losses: Tensor) -> Any:
        return highest(losses, k)


drawn = {"draws": True, "prefers_hard": False}

# fmt: off
FAULTS: list[tuple[str, Case]] = [
    ("indices_are_valid", rule("int32", lambda x, k: Selection(top(x, k).sort().values.int()))),
    ("indices_are_valid", rule("descending", lambda x, k: Selection(top(x, k).sort(descending=True).values))),
    ("indices_are_valid", rule("twice", lambda x, k: x.argmax().repeat(k))),
    ("indices_are_valid", rule("out of range", lambda x, k: torch.arange(k) + len(x) - k + 1)),
    ("indices_are_valid", rule("negative", lambda x, k: torch.arange(k) - 1)),
    ("the_size_is_exact", rule("one more", lambda x, k: top(x, min(k + 1, len(x))))),
    ("the_size_is_exact", rule("one less", lambda x, k: top(x, max(k - 1, 1)))),
    ("the_size_is_exact", made("undeclared coins", Bernoulli, **drawn)),
    ("k_overrides_keep", rule("deaf to k", lambda x, k: top(x, max(1, round(len(x) / 2))))),
    ("k_outside_one_to_n_is_refused", Case("clamped", lambda keep, seed: Clamped(keep))),
    ("keep_one_is_the_identity", rule("never all", lambda x, k: top(x, min(k, max(1, len(x) - 1))))),
    ("keep_one_is_the_identity", rule("weighs all", lambda x, k: Selection(torch.arange(k), torch.ones(k)))),
    ("k_equal_to_n_keeps_all", rule("never all", lambda x, k: top(x, min(k, max(1, len(x) - 1))))),
    ("one_candidate_is_chosen", rule("none of one", lambda x, k: top(x, k if len(x) > 1 else 0))),
    ("an_empty_batch_is_refused", Case("lenient", lambda keep, seed: Lenient(keep))),
    ("inputs_are_left_alone", rule("in place", lambda x, k: top(x.mul_(-1), k))),
    ("no_gradient_flows", rule("graph", lambda x, k: Selection(torch.arange(k), x[:k]))),
    ("the_choice_follows_a_permutation", rule("the first rows", lambda x, k: torch.arange(k))),
    ("the_choice_follows_a_permutation", made("likelier the first", FirstRowsLikelier, **drawn)),
    ("the_choice_follows_a_permutation", made("never neighbours", Comb, **drawn)),
    ("planted_hard_rows_are_preferred", rule("keeps the easiest", lambda x, k: top(-x, k))),
    ("planted_hard_rows_are_preferred", rule("keeps the first", lambda x, k: torch.arange(k))),
    ("planted_hard_rows_are_preferred", rule("one easy row", lambda x, k: torch.cat([top(x, k - 1), top(-x, 1)]))),
    ("planted_hard_rows_are_preferred", made("no preference", RandomSubset, draws=True)),
    ("planted_hard_rows_are_preferred", made("easy likelier", lambda keep, seed: EasyLikelier(keep, seed=seed),
                                             draws=True)),
    ("planted_hard_rows_are_preferred", made("a secret preference",
                                             lambda keep, seed: LossPercentile(keep, seed=seed), **drawn)),
    ("equal_rows_are_treated_alike", rule("the last of equals", lambda x, k: x.sort(stable=True).indices[-k:])),
    ("equal_rows_are_treated_alike", made("ordinal ranks", OrdinalRanks, draws=True)),
    ("weights_are_unbiased", made("unnormalised", Unnormalised, draws=True, weighted=True)),
    ("weights_are_unbiased", made("all alike", Unweighing, draws=True, weighted=True)),
    ("weights_are_unbiased", Case("larger steps", lambda keep, seed: InfoBatch(seed=seed), draws=True, weighted=True)),
    ("weights_are_unbiased", Case("as many steps", lambda keep, seed: InfoBatch(normalised=True, seed=seed), draws=True,
                                  weighted=True, estimates="sum")),
    ("an_unweighted_choice_has_no_weights", rule("ones", lambda x, k: Selection(torch.arange(k), torch.ones(k)))),
    ("broken_scores_are_refused", Case("lenient", lambda keep, seed: Lenient(keep))),
    ("the_dtype_of_the_scores_does_not_matter", rule("rounds", lambda x, k: top(x / 3000 + 1, k))),
    ("large_half_precision_scores_do_not_overflow", rule("squares", lambda x, k: top(x * x, k))),
    ("a_missing_need_is_named", Case("lenient", lambda keep, seed: Lenient(keep))),
    ("a_wrong_keep_is_refused", Case("clamped", lambda keep, seed: AnyKeep(keep))),
    ("further_scores_are_ignored", Case("distracted", lambda keep, seed: Distracted(keep))),
    ("the_seed_decides", made("one seed", OneSeed, **drawn)),
    ("the_seed_decides", made("global stream", GlobalTorch, **drawn)),
    ("the_seed_decides", made("draws in secret", RandomSubset, prefers_hard=False)),
    ("a_numpy_seed_is_a_seed", made("plain only", PlainSeedsOnly, **drawn)),
    ("every_rank_draws_its_own", made("one rank", OneRank, **drawn)),
    ("without_a_seed_the_run_decides", made("one seed", OneSeed, **drawn)),
    ("without_a_seed_the_run_decides", made("global stream", GlobalTorch, **drawn)),
    ("without_a_seed_the_run_decides", made("hasty repr", Hasty, **drawn)),
    ("a_default_seed_takes_the_place_of_the_run_s", made("deaf to it", OneRank, **drawn)),
    ("global_streams_are_untouched", made("torch", GlobalTorch, **drawn)),
    ("global_streams_are_untouched", made("numpy", GlobalNumpy, **drawn)),
    ("global_streams_are_untouched", made("python", GlobalPython, **drawn)),
    ("a_saved_state_goes_on_identically", made("state lost", StateLost, **drawn)),
    ("a_saved_state_goes_on_identically", made("state kept", StateKept, **drawn)),
    ("a_saved_state_goes_on_identically", Case("state aliased", lambda keep, seed: StateAliased(keep),
                                               lambda x: {"losses": x, "ids": torch.arange(len(x))}, stateful=True)),
    ("there_is_state_to_be_lost", Case("no state", lambda keep, seed: TopLoss(keep), stateful=True)),
    ("reset_forgets_everything", made("no reset", Unforgetting, **drawn)),
    ("a_memoryless_choice_can_be_made_at_any_time", Case("counting", lambda keep, seed: Counting(keep))),
    ("a_memoryless_choice_can_be_made_at_any_time", Case("wandering", lambda keep, seed: Wandering(keep))),
    ("copies_go_on_identically_and_alone", made("shared", SharedByCopies, **drawn)),
    ("the_repr_makes_its_like", Case("taciturn", lambda keep, seed: Taciturn(keep))),
    ("the_answer_is_a_selection", Case("a tensor", lambda keep, seed: Bare(keep))),
]
# fmt: on
