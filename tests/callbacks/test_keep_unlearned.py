"""A selection that keeps what is not learned yet, from the ledger and in full batches."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from litselect.callbacks import ExampleSelection
from litselect.scoring import ScoringPass
from litselect.selectors import KeepUnlearned
from tests.callbacks.kit import WIDTH, Classifier, easy, loader


def test_a_training_keeps_less_as_it_learns(solo: Any) -> None:
    net, callback = solo.make(Classifier, lr=0.5), ExampleSelection(KeepUnlearned(1.0, floor=0.25), refill=True)
    solo.fit(net, callback, data=loader(96, 8, shuffle=True), max_epochs=60)
    assert callback.counters.scored == 0
    assert {len(ids) for ids in net.steps} == {8}
    assert callback.counters.trained < 0.8 * callback.counters.seen
    assert callback.ledger is not None
    assert int(callback.ledger.trained.min()) >= 60 * 0.25 - 2


class Normed(Classifier):
    """Can't be trained on one row."""

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.net = torch.nn.Sequential(torch.nn.BatchNorm1d(WIDTH), self.net)


@pytest.mark.filterwarnings("ignore:The losses are all alike")
@pytest.mark.parametrize(("module", "size"), [(Classifier, 1), (Classifier, 2), (Classifier, 4), (Normed, 4)])
def test_of_small_batches_no_more_is_kept(solo: Any, module: type, size: int) -> None:
    """A batch of which nothing is chosen is one row to the loader, which is not trained; a queue needs no least."""
    data = easy(96)
    trained = []
    for skips in (None, False):
        net, callback = solo.make(module, lr=1.0), ExampleSelection(KeepUnlearned(), refill=True, skip_loading=skips)
        solo.fit(net, callback, data=DataLoader(data, size), max_epochs=21)
        assert {len(ids) for ids in net.steps} == {size}
        trained.append(callback.counters.trained)
        assert callback.counters.seen == 21 * 96, "all are candidates, those that are not loaded too"
    assert trained[0] == pytest.approx(trained[1], abs=size)
    assert trained[0] < 4 * 96


@pytest.mark.filterwarnings("ignore:The losses are all alike")
def test_one_row_is_not_scored_with_batch_statistics_to_be_checked(solo: Any) -> None:
    """A second fit checks its losses again, at once, on what was chosen before loading."""
    data = easy(96)
    selects = ExampleSelection(
        KeepUnlearned(floor=0.05), scoring=ScoringPass(mode="train"), rescore_every=100, refill=True
    )
    net, trainer = solo.make(Normed, lr=1.0), solo.trainer(selects, max_epochs=12)
    trainer.fit(net, DataLoader(data, 2))
    trainer.fit_loop.max_epochs = 16
    trainer.fit(net, DataLoader(data, 2))
    assert 1 not in net.passes
    assert selects.counters.seen == 16 * 96
