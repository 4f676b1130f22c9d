"""What a training step does not tell: it is refused with a remedy that is one, or comes later."""

from typing import Any

import pytest
from torch.nn import functional as F

from litselect.callbacks import ExampleSelection
from litselect.scoring import CaptureError
from litselect.selectors import HideLearned, KeepUnlearned, NoiseGuard, RandomSubset, Stratified
from tests.callbacks.kit import CLASSES, Classifier, loader


class TwoLabels(Classifier):
    """A loss without a class an example."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        return F.binary_cross_entropy_with_logits(self.net(x), F.one_hot(y, CLASSES).float())


def test_confidences_that_no_step_tells_are_refused(solo: Any) -> None:
    """Nothing would ever be hidden."""
    with pytest.raises(CaptureError, match=r"HideLearned.* needs confidences, which are read off the cross-entropy"):
        solo.fit(solo.make(TwoLabels), ExampleSelection(HideLearned()), data=loader(), max_epochs=4)


@pytest.mark.parametrize("selector", [Stratified(RandomSubset(0.5)), NoiseGuard(RandomSubset(0.5), "auto")])
@pytest.mark.parametrize("settings", [{}, {"skip_loading": False}], ids=str)
def test_labels_may_be_unknown_at_first(solo: Any, selector: Any, settings: Any) -> None:
    net = solo.make(Classifier)
    solo.fit(net, ExampleSelection(selector, scoring="ledger", warmup=0, **settings), data=loader(), max_epochs=3)
    assert {len(ids) for ids in net.steps} == {4}


class ByHand(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        self.note(ids)
        return -(self.net(x).log_softmax(1) * F.one_hot(y, CLASSES)).sum(1).mean()


class ByHandAndTold(ByHand):
    def example_losses(self, batch: Any) -> Any:
        return self.losses(batch)


def test_the_remedy_for_losses_by_hand_is_one(solo: Any) -> None:
    with pytest.raises(CaptureError, match=r"Define `example_losses.*Beside either pass rescore_every=2"):
        solo.fit(solo.make(ByHand), ExampleSelection(KeepUnlearned()), data=loader(), max_epochs=4)
    rescored = ExampleSelection(KeepUnlearned(), rescore_every=2)
    solo.fit(solo.make(ByHandAndTold), rescored, data=loader(), max_epochs=4)
