"""The preset for data of which nobody knows how much is needed."""

from typing import Any

import pytest
from torch.utils.data import DataLoader

from litselect.callbacks import ExampleSelection, SkipLearned
from litselect.selectors import KeepUnlearned
from tests.callbacks.kit import Classifier, differences, easy, loader, weights


def test_it_is_what_it_says(solo: Any) -> None:
    found = []
    for callback in (SkipLearned(), ExampleSelection(KeepUnlearned(), refill=True, end=0.5)):
        net = solo.make(Classifier, lr=0.5)
        solo.fit(net, callback, data=loader(96, 8, shuffle=True), max_epochs=40)
        found.append({"steps": list(net.steps), "weights": weights(net)})
        assert callback.counters.scored == 0
    assert differences(*found) == []


@pytest.mark.filterwarnings("ignore:The losses are all alike")
def test_less_is_trained_and_then_everything(solo: Any) -> None:
    net, callback = solo.make(Classifier, lr=1.0), SkipLearned()
    solo.fit(net, callback, data=DataLoader(easy(96), 8), max_epochs=40)
    assert callback.counters.seen == 40 * 96
    assert {len(rows) for rows in net.steps} == {8}
    whole = 20 * 96 // 8
    assert [sorted(net.steps[-at - 1]) for at in range(12)] == [
        list(range(88 - 8 * at, 96 - 8 * at)) for at in range(12)
    ]
    assert whole < len(net.steps) < whole + 60, "a tenth or so of the first half, and all of the second"


def test_settings_are_handed_on() -> None:
    callback = SkipLearned(refill=False, end=1.0, warmup=1, nonfinite="drop")
    assert (callback.refill, callback.phase.end, callback.phase.warmup, callback.nonfinite) == (False, 1.0, 1, "drop")


def test_a_training_of_unknown_length_is_refused(solo: Any) -> None:
    with pytest.raises(ValueError, match=r"end=0\.5 are fractions of training, but its length is not known"):
        solo.fit(solo.make(Classifier), SkipLearned(), data=loader(32, 8), max_epochs=-1)
