"""Mixed and reduced precision: identity, scores in the precision of training, steps that the scaler declines."""

from typing import Any

import pytest
import torch
from torch.amp import GradScaler

from litselect.callbacks import ExampleSelection, scorer
from litselect.scoring import ScoringPass
from litselect.selectors import TopLoss
from tests.callbacks.twins import ByHand, Net, assert_identical, halved, observe

STEPS = 10


def fp16(init_scale: float = 2.0**8, **scaling: Any) -> Any:
    """Settings of real float16 with a real scaler. ``precision="16-mixed"`` alone becomes bfloat16 on the CPU."""

    def settings(kit: Any) -> dict[str, Any]:
        scaler = GradScaler("cpu", init_scale=init_scale, growth_interval=3, **scaling)
        return {"plugins": [kit.pl.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)]}

    return settings


def precision(name: str) -> Any:
    return lambda kit: {"precision": name}


PRECISIONS = {
    "bf16-mixed": (precision("bf16-mixed"), torch.bfloat16),
    "bf16-true": (precision("bf16-true"), torch.bfloat16),
    "64-true": (precision("64-true"), torch.float64),
    "fp16": (fp16(), torch.float16),
}


@pytest.mark.parametrize(("module", "name"), [*((Net, name) for name in PRECISIONS), (ByHand, "fp16")])
def test_identity(solo: Any, module: type, name: str) -> None:
    settings, dtype = PRECISIONS[name]
    plain = assert_identical(solo, module, settings=settings)
    assert {found for trained, found in plain["net"].dtypes if trained} == {dtype}
    if name == "fp16":
        assert plain["scaler"]["scale"] > 2.0**8  # it grew: it is at work


@pytest.mark.parametrize(("module", "name"), [*((Net, name) for name in PRECISIONS), (ByHand, "fp16")])
def test_scores_are_of_the_precision_of_training(solo: Any, module: type, name: str) -> None:
    settings, dtype = PRECISIONS[name]
    seen = halved(solo, module, settings=settings)
    assert set(seen["net"].dtypes) == {(True, dtype), (False, dtype)}
    assert [len(ids) for ids in seen["net"].steps] == [4, 4, 4, 4, 3] * 2


def test_scores_are_not_of_the_precision_of_training_without_its_context(solo: Any, monkeypatch: Any) -> None:
    """The guard that the test above rests on."""
    score = scorer.Scorer._score

    def without_context(self: Any, *args: Any, **named: Any) -> Any:
        with torch.autocast("cpu", enabled=False), monkeypatch.context() as patch:
            patch.setattr(
                self._trainer.precision_plugin, "train_step_context", lambda: torch.autocast("cpu", enabled=False)
            )
            return score(self, *args, **named)

    monkeypatch.setattr(scorer.Scorer, "_score", without_context)
    seen = halved(solo, Net, settings=precision("bf16-mixed"))
    assert set(seen["net"].dtypes) == {(True, torch.bfloat16), (False, torch.float32)}


def test_scores_can_be_of_less_precision(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=0.5), scoring=ScoringPass(precision="bf16"))
    seen = observe(solo, Net, callback)
    assert set(seen["net"].dtypes) == {(True, torch.float32), (False, torch.bfloat16)}


# ---------------------------------------------------------------------- the scaler declines a step


class Watched(Net):
    """Notes after every step whether the weights moved."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[bool] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.before = self.net[0].weight.detach().clone()

    def on_train_batch_end(self, *_: Any) -> None:
        self.moved.append(not torch.equal(self.before, self.net[0].weight))


class WatchedByHand(Watched, ByHand):
    """The same under manual optimization."""


@pytest.mark.parametrize("module", [Watched, WatchedByHand])
def test_a_step_that_the_scaler_skips(kit: Any, module: type) -> None:
    """Gradients overflow until the scale is small enough: the same steps are declined with all rows kept."""
    start = 2.0**22
    plain = assert_identical(kit, module, settings=fp16(start))
    moved = plain["net"].moved
    assert plain["scaler"]["scale"] < start
    assert not moved[0]  # there are declined steps
    assert any(moved)  # and others
    seen = halved(kit, module, settings=fp16(start))
    assert not seen["net"].moved[0]
    assert any(seen["net"].moved)
    counters = seen["callback"].counters
    assert (counters.seen, counters.trained, counters.steps) == (76, 38, STEPS)  # steps as Lightning counts them


def test_a_gradient_that_is_infinite_now_and_then(solo: Any) -> None:
    every = 3

    class Overflows(Watched):
        def on_after_backward(self) -> None:
            if (self.global_step + 1) % every == 0:
                self.net[0].weight.grad[0, 0] = torch.inf

    plain = assert_identical(solo, Overflows, settings=fp16())
    assert plain["net"].moved == [(i + 1) % every != 0 for i in range(STEPS)]
    seen = halved(solo, Overflows, settings=fp16())
    assert seen["net"].moved == plain["net"].moved


def test_with_clipping_and_accumulation(solo: Any) -> None:
    settings = fp16(2.0**22)
    assert_identical(
        solo, Net, settings=lambda kit: {**settings(kit), "gradient_clip_val": 0.1, "accumulate_grad_batches": 2}
    )
