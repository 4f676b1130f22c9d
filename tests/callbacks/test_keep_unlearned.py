"""A selection that keeps what is not learned yet, from the ledger and in full batches."""

from typing import Any

from litselect.callbacks import ExampleSelection
from litselect.selectors import KeepUnlearned
from tests.callbacks.kit import Classifier, loader


def test_a_training_keeps_less_as_it_learns(solo: Any) -> None:
    net, callback = solo.make(Classifier, lr=0.5), ExampleSelection(KeepUnlearned(1.0, floor=0.25), refill=True)
    solo.fit(net, callback, data=loader(96, 8, shuffle=True), max_epochs=60)
    assert callback.counters.scored == 0
    assert {len(ids) for ids in net.steps} == {8}
    assert callback.counters.trained < 0.8 * callback.counters.seen
    assert callback.ledger is not None
    assert int(callback.ledger.trained.min()) >= 60 * 0.25 - 2
