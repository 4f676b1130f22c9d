"""Every selector with canonical settings. A new selector is one line here, and the contract suite runs over it."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from litselect.selectors import (
    DiverseSubset,
    HideLearned,
    ImportanceSampling,
    InfoBatch,
    KeepAll,
    KeepUnlearned,
    LossPercentile,
    Mixture,
    NoiseGuard,
    RandomSubset,
    RankSampling,
    RatedSubset,
    ReducibleLoss,
    Scheduled,
    Selector,
    ShuffledScores,
    Stratified,
    TopLoss,
    Uncertainty,
)
from tests.selectors.case import (
    Case,
    as_classes,
    as_doubt,
    as_ease,
    as_learned,
    as_ledger,
    as_logits,
    as_mistakes,
    as_percentiles,
    as_ratings,
)
from tests.selectors.specimens import LeastSure, RatedDraw, Remembering, WeightedCoins, WeightedDraw, Wrapper


@cache
def irreducible() -> str:
    """A file of irreducible losses, all alike."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "irreducible.safetensors"
    save_file({"irreducible": torch.full((200,), 0.5)}, path)
    return str(path)


WRAPPERS: dict[str, Callable[[Selector], Selector]] = {
    "Mixture": lambda selector: Mixture(selector, uniform=0.2),
    "NoiseGuard": lambda selector: NoiseGuard(selector, drop_top=0.03),
    "Stratified": Stratified,
    "Scheduled": lambda selector: Scheduled(selector, (selector.keep, selector.keep)),
    "ShuffledScores": ShuffledScores,
}


def percentile(keep: float, seed: int | None, fixed_size: bool = True) -> Selector:
    return LossPercentile(keep, history=20, fixed_size=fixed_size, seed=seed)


def by_loss(keep: float, seed: int | None) -> Selector:
    return ImportanceSampling(keep, 0.0, score="loss", seed=seed)


def wrapping(name: str, make: Callable[..., Selector], **traits: Any) -> Case:
    """A wrapper: it draws, remembers and looks at classes."""
    traits = {"draws": True, "stateful": True, "also_takes": ("percentiles",), **traits}
    return Case(name, make, as_classes, **traits)


# fmt: off
CASES = [
    Case("KeepAll", lambda keep, seed: KeepAll(), prefers_hard=False, has_keep=False, keeps_all=True),
    Case("RandomSubset", lambda keep, seed: RandomSubset(keep, seed=seed), prefers_hard=False, draws=True),
    Case("TopLoss", lambda keep, seed: TopLoss(keep)),
    Case("LossPercentile", lambda keep, seed: LossPercentile(keep, history=20, seed=seed), draws=True,
         stateful=True, also_takes=("percentiles",)),  # a short history, which wraps
    Case("LossPercentile-independent", lambda keep, seed: LossPercentile(keep, fixed_size=False, seed=seed),
         draws=True, stateful=True, also_takes=("percentiles",)),
    Case("LossPercentile-ledger", lambda keep, seed: LossPercentile(keep, floor=keep / 5, seed=seed), as_percentiles,
         draws=True),
    Case("TopLoss-lowest", lambda keep, seed: TopLoss(keep, lowest=True), as_ease),
    Case("Uncertainty-margin", lambda keep, seed: Uncertainty(keep), as_doubt),
    Case("Uncertainty-entropy", lambda keep, seed: Uncertainty(keep, measure="entropy"), as_doubt),
    Case("ImportanceSampling", lambda keep, seed: ImportanceSampling(keep, 0.0, seed=seed), as_logits, draws=True,
         weighted=True, stateful=True),  # its scores are free, so it is on
    Case("ImportanceSampling-off", lambda keep, seed: ImportanceSampling(keep, 9.0, seed=seed), as_logits, draws=True,
         weighted=True, stateful=True, prefers_hard=False),
    Case("ImportanceSampling-loss", lambda keep, seed: ImportanceSampling(keep, 0.0, score="loss", seed=seed),
         draws=True, weighted=True, stateful=True),
    Case("ImportanceSampling-baseline",
         lambda keep, seed: ImportanceSampling(keep, 0.0, score="loss", weighted=False, seed=seed), draws=True,
         stateful=True),
    Case("InfoBatch", lambda keep, seed: InfoBatch(seed=seed), draws=True, weighted=True, estimates="sum",
         has_keep=False, also_takes=("percentiles", "ages")),
    Case("InfoBatch-normalised", lambda keep, seed: InfoBatch(0.3, normalised=True, seed=seed), draws=True,
         weighted=True, has_keep=False, also_takes=("percentiles", "ages")),
    Case("HideLearned", lambda keep, seed: HideLearned(1 - keep), as_learned, has_keep=False,
         also_takes=("percentiles", "ages")),
    Case("KeepUnlearned", lambda keep, seed: KeepUnlearned(floor=keep), as_ledger, has_keep=False),
    Case("ReducibleLoss", lambda keep, seed: ReducibleLoss(keep, irreducible()), as_ledger),
    Case("DiverseSubset", lambda keep, seed: DiverseSubset(keep), as_mistakes),
    Case("RankSampling", lambda keep, seed: RankSampling(keep, pressure=20, steps=40, seed=seed), as_percentiles,
         draws=True, stateful=True),
    Case("RankSampling-batch", lambda keep, seed: RankSampling(keep, within="batch", seed=seed), draws=True,
         stateful=True),
    Case("RatedSubset", lambda keep, seed: RatedSubset(keep, temperature=4, seed=seed), as_ratings, draws=True),
    Case("RatedSubset-hard", lambda keep, seed: RatedSubset(keep, hard=True), as_ratings),
    Case("RatedSubset-class", lambda keep, seed: RatedSubset(keep, 0.2, within_class=True, seed=seed), as_classes,
         draws=True),
    wrapping("Mixture", lambda keep, seed: Mixture(percentile(keep, seed), uniform=0.2)),
    wrapping("Mixture-independent", lambda keep, seed: Mixture(percentile(keep, seed, False))),
    wrapping("Mixture-weighted", lambda keep, seed: Mixture(by_loss(keep, seed), 0.3), weighted=True),
    wrapping("Mixture-seeded", lambda keep, seed: Mixture(TopLoss(keep), uniform=0.3, seed=seed)),
    wrapping("NoiseGuard", lambda keep, seed: NoiseGuard(percentile(keep, seed), drop_top=0.1)),
    wrapping("NoiseGuard-independent", lambda keep, seed: NoiseGuard(percentile(keep, seed, False), drop_top=0.1)),
    wrapping("NoiseGuard-auto", lambda keep, seed: NoiseGuard(percentile(keep, seed), drop_top="auto"),
             also_takes=("percentiles", "ages")),
    wrapping("Stratified", lambda keep, seed: Stratified(percentile(keep, seed))),
    wrapping("Stratified-weighted", lambda keep, seed: Stratified(by_loss(keep, seed)), weighted=True),
    wrapping("Scheduled", lambda keep, seed: Scheduled(percentile(0.5, seed), (keep, keep))),
    wrapping("Scheduled-weighted", lambda keep, seed: Scheduled(by_loss(0.5, seed), (keep, keep)), weighted=True),
    wrapping("ShuffledScores", lambda keep, seed: ShuffledScores(percentile(keep, seed)), prefers_hard=False),
    wrapping("ShuffledScores-independent", lambda keep, seed: ShuffledScores(percentile(keep, seed, False)),
             prefers_hard=False),
    wrapping("ShuffledScores-weighted", lambda keep, seed: ShuffledScores(by_loss(keep, seed)), weighted=True,
             prefers_hard=False),
]

WRAPPED_TWICE = [
    wrapping(f"{outer}({inner})",
             lambda keep, seed, outer=outer, inner=inner: WRAPPERS[outer](WRAPPERS[inner](percentile(keep, seed))),
             prefers_hard="ShuffledScores" not in (outer, inner))
    for outer in WRAPPERS for inner in WRAPPERS
]

SPECIMENS = [  # sound selectors of the kinds that are to come
    Case("needs-logits", lambda keep, seed: LeastSure(keep), as_logits),
    Case("needs-ratings", lambda keep, seed: RatedDraw(keep, seed=seed), as_ratings, draws=True),
    Case("weighted", lambda keep, seed: WeightedDraw(keep, seed=seed), draws=True, weighted=True),
    Case("weighted-probabilistic", lambda keep, seed: WeightedCoins(keep, seed=seed), draws=True, weighted=True),
    Case("needs-ids", lambda keep, seed: Remembering(keep), as_ledger, stateful=True, warm_calls=1),
    Case("wrapper", lambda keep, seed: Wrapper(LossPercentile(keep, seed=seed)), draws=True, stateful=True,
         also_takes=("percentiles",)),
]
# fmt: on
