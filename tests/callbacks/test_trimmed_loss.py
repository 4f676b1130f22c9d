"""The preset against wrong labels."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from litselect.callbacks import ExampleSelection, TrimmedLoss
from litselect.scoring import ScoringPass
from litselect.selectors import Mixture, NoiseGuard, RandomSubset
from tests.callbacks.kit import Classifier, differences, loader, weights

pytestmark = pytest.mark.filterwarnings("ignore:The '\\w+_dataloader' does not have many workers")


def test_it_is_what_it_says(solo: Any) -> None:
    law = Mixture(NoiseGuard(RandomSubset(0.6 / 0.94, seed=3), drop_top=0.4, ramp=0.3), uniform=0.15)
    spelled = ExampleSelection(law, scoring="ledger", warmup=0)
    found = []
    for callback in (TrimmedLoss(0.4, seed=3), spelled):
        net = solo.make(Classifier)
        solo.fit(net, callback, data=loader(64, 16, shuffle=True), max_epochs=6)
        found.append({"steps": list(net.steps), "weights": weights(net)})
    assert differences(*found) == []
    assert {len(rows) for rows in net.steps} == {10}
    assert callback.counters.scored == 0


@pytest.mark.filterwarnings("ignore:.*of the examples have not been trained")
def test_wrong_labels_are_trained_less(solo: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(320) % 3
    x = torch.cat([4 * torch.nn.functional.one_hot(y, 3).float(), torch.randn(320, 2, generator=generator)], 1)
    wrong = torch.arange(320) % 5 == 0
    data = TensorDataset(x, torch.where(wrong, (y + 1) % 3, y), torch.arange(320))
    net, callback = solo.make(Classifier), TrimmedLoss(noise=0.2, seed=0)
    solo.fit(net, callback, data=DataLoader(data, 32, shuffle=True), max_epochs=20)
    trained = callback.ledger.trained.float()
    assert trained[wrong].mean() < 0.4 * trained[~wrong].mean()
    assert trained[wrong].min() > 1, "now and then each is looked at"


def test_settings_are_handed_on() -> None:
    callback = TrimmedLoss(0.1, keep=0.5, ramp=0.0, uniform=0.2, scoring=ScoringPass(), warmup=1, nonfinite="drop")
    assert callback.selector.keep == 0.5
    assert (callback.selector.share, callback.phase.warmup, callback.nonfinite) == (0.2, 1, "drop")


@pytest.mark.parametrize("noise", [0.0, 1.0, -0.1, float("nan"), "auto"])
def test_a_wrong_share_is_refused(noise: Any) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\), but got .* use no TrimmedLoss"):
        TrimmedLoss(noise)


def test_rescoring_takes_the_place_of_remembered_losses(solo: Any) -> None:
    """As the error for losses that are written by hand says."""
    callback = TrimmedLoss(0.25, rescore_every=2)
    assert not callback.plan.free
    solo.fit(solo.make(Classifier), callback, data=loader(32, 8), max_epochs=4)
    assert callback.counters.scored == 2 * 32
