"""What a callback keeps from one training to another, and what it takes from a checkpoint that is only tested."""

from pathlib import Path
from typing import Any

import pytest
import torch

from litselect.callbacks import Budget, ExampleSelection, SelectiveBackprop
from litselect.scoring import ScoringPass
from litselect.selectors import LossPercentile, RandomSubset, RankSampling
from tests.callbacks.kit import Classifier, differences, loader, random_streams, seed_streams, weights

pytestmark = pytest.mark.filterwarnings("ignore:The '\\w+_dataloader' does not have many workers")


class WithTest(Classifier):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.losses(batch).mean())


KINDS = {
    "pass": lambda: SelectiveBackprop(0.5, seed=0, scoring=ScoringPass()),
    "ledger": lambda: SelectiveBackprop(0.5, seed=0),
    "refill": lambda: SelectiveBackprop(0.5, seed=0, refill=True),
}


@pytest.mark.filterwarnings("ignore:Training ended with")
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_is_tested_changes_nothing(solo: Any, tmp_path: Path, kind: str) -> None:
    """Neither what was counted, nor where the next training begins."""

    def ends(tests: bool) -> dict[str, Any]:
        seed_streams()
        callback, budget, file = KINDS[kind](), Budget(candidates=24 * 4), tmp_path / f"{kind}-{tests}.ckpt"
        first = solo.make(WithTest)
        solo.fit(first, callback, budget, data=loader(24, 8)).save_checkpoint(file)
        net = solo.make(WithTest)
        trainer = solo.trainer(callback, budget, max_epochs=4)
        trainer.fit(net, loader(24, 8))
        if tests:
            trainer.test(net, loader(24, 8), ckpt_path=file, verbose=False)
            seed_streams(5)
        counts, spent = {**callback.counters.state_dict()}, budget.progress
        seed_streams(5)
        last = solo.make(WithTest)
        solo.fit(last, callback, data=loader(24, 8, shuffle=True), max_epochs=2)
        counts = {name: count for name, count in counts.items() if "seconds" not in name}
        return {"counts": counts, "spent": spent, "weights": weights(last), "streams": random_streams()}

    plain = ends(tests=False)
    assert plain["counts"]["seen"] == 24 * 4
    assert plain["spent"] == 1
    assert differences(plain, ends(tests=True)) == []


@pytest.mark.parametrize("make", [lambda: RankSampling(0.5, steps=10, seed=0), lambda: LossPercentile(0.5, seed=0)])
def test_another_training_begins_anew(solo: Any, make: Any) -> None:
    callback = ExampleSelection(make())
    nets = [solo.make(Classifier) for _ in range(2)]
    for net in nets:
        solo.fit(net, callback, data=loader(), max_epochs=3)
    assert nets[0].steps == nets[1].steps
    assert callback.counters.seen == 3 * 32


def test_the_same_training_goes_on(solo: Any) -> None:
    callback, net = ExampleSelection(RandomSubset(0.5, seed=0)), solo.make(Classifier)
    trainer = solo.fit(net, callback, data=loader(), max_epochs=2)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(net, loader())
    assert callback.counters.seen == 4 * 32
    whole = solo.make(Classifier)
    solo.fit(whole, ExampleSelection(RandomSubset(0.5, seed=0)), data=loader(), max_epochs=4)
    assert net.steps == whole.steps


class MadeLate(Classifier):
    """With batch statistics, and a network that is not there before `configure_model`, or `setup`."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        del self.net

    def setup(self, stage: str) -> None:
        self._make("setup")

    def configure_model(self) -> None:
        self._make("configure_model")

    def _make(self, where: str) -> None:
        if where == self.where:
            self.net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))


@pytest.mark.parametrize("where", ["setup", "configure_model"])
def test_no_single_row_meets_batch_statistics_that_are_made_late(solo: Any, where: str) -> None:
    net = solo.make(MadeLate, where)
    solo.fit(net, SelectiveBackprop(0.5, seed=0), data=loader(50, 8), max_epochs=4)
    assert min(len(ids) for ids in net.steps) == 2
