"""A selection that keeps what is not learned yet, from the ledger and in full batches."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from litselect.callbacks import ExampleSelection
from litselect.selectors import KeepUnlearned
from tests.callbacks.kit import Classifier, loader, rows

EPOCHS = 60


def test_a_training_keeps_less_as_it_learns(solo: Any) -> None:
    net, callback = solo.make(Classifier, lr=0.5), ExampleSelection(KeepUnlearned(1.0, floor=0.25), refill=True)
    solo.fit(net, callback, data=loader(96, 8, shuffle=True), max_epochs=EPOCHS)
    assert callback.counters.scored == 0
    assert {len(ids) for ids in net.steps} == {8}
    assert callback.counters.trained < 0.9 * callback.counters.seen
    assert callback.ledger is not None
    assert int(callback.ledger.trained.min()) >= EPOCHS * 0.25 - 2


@pytest.mark.parametrize("before", [True, False], ids=["before loading", "of loaded rows"])
def test_what_contradicts_the_rest_is_trained_less_until_all_is_released(solo: Any, before: bool) -> None:
    """The averages of the ledger and the progress of the training reach the selector, whichever way rows are chosen."""

    def trained(selector: KeepUnlearned) -> list[float]:
        x, _, ids = rows(96)
        y = x[:, :3].argmax(1)
        y[:6] = x[:6, :3].argmin(1)
        data = DataLoader(TensorDataset(x, y, ids), batch_size=16, shuffle=True)
        callback = ExampleSelection(selector, refill=True, skip_loading=before)
        solo.fit(solo.make(Classifier, lr=2.0), callback, data=data, max_epochs=EPOCHS)
        assert callback.ledger is not None
        counts = callback.ledger.trained.float() / EPOCHS
        return [counts[:6].mean().item(), counts[6:].mean().item()]

    torch.manual_seed(0)
    plain = trained(KeepUnlearned(hopeless=0, release=1.0))
    trimmed = trained(KeepUnlearned(hopeless=0.1, release=1.0))
    released = trained(KeepUnlearned(hopeless=0.1, release=0.5))
    assert trimmed[0] < 0.6 * plain[0]
    assert trimmed[1] == pytest.approx(plain[1], abs=0.2)
    assert released[0] > trimmed[0] + 0.1
    assert released[1] > trimmed[1] + 0.1
