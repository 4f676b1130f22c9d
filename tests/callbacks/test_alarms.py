"""What selection does to a data set is said, once, and nothing is said of what is all right."""

import warnings
from typing import Any

import pytest
import torch

from litselect.callbacks import ExampleSelection
from litselect.callbacks.alarms import Alarms
from litselect.callbacks.learning_rate import RaisedLearningRate
from litselect.scoring import Ledger
from litselect.selectors import HideLearned, TopLoss
from tests.callbacks.kit import Classifier, loader

N, CLASSES, KEEP, EPOCHS = 2000, 4, 0.5, 40
LABELS = torch.arange(N) % CLASSES


def history(
    visit: Any, keep: float = KEEP, epochs: int = EPOCHS, losses: Any = None, labels: Any = LABELS
) -> list[str]:
    """The warnings of a training of which `visit(epoch)` tells who is trained."""
    ledger, alarms = Ledger(N), Alarms()
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in range(epochs):
            trained = visit(epoch, generator) if epoch else torch.ones(N, dtype=torch.bool)
            ledger.see(torch.arange(N))
            ledger.train(trained.nonzero().squeeze(1))
            found = torch.rand(N, generator=generator) if losses is None else losses
            ledger.record(torch.arange(N), found, torch.rand(N), epoch)
            alarms.look(ledger, labels, keep, selecting=epoch > 0)
            restored = Alarms()
            restored.load_state_dict(alarms.state_dict())
            alarms = restored  # as if every epoch had been resumed
    return [str(warning.message) for warning in caught]


def uniform(epoch: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(N, generator=generator) < KEEP


def without_some(epoch: int, generator: torch.Generator) -> torch.Tensor:
    return uniform(epoch, generator) & (torch.arange(N) % 50 > 0)  # 2% are never trained again


def without_a_class(epoch: int, generator: torch.Generator) -> torch.Tensor:
    return uniform(epoch, generator) & ((LABELS != 2) | (epoch % 18 == 0))


def concentrated(epoch: int, generator: torch.Generator) -> torch.Tensor:
    return (torch.arange(N) < N // 10) | (torch.rand(N, generator=generator) < 0.01)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_uniform_draws_give_no_alarm(keep: float) -> None:
    assert history(lambda epoch, g: torch.rand(N, generator=g) < keep, keep) == []


@pytest.mark.parametrize(
    ("visit", "message"),
    [
        (without_some, "2% of the examples have not been trained for more than 20 epochs"),
        (without_a_class, "Classes 2 are trained less than a tenth as often"),
        (concentrated, "of all training goes to a tenth of the examples"),
    ],
)
def test_what_is_wrong_is_said_once(visit: Any, message: str) -> None:
    found = history(visit)
    assert len([text for text in found if message in text]) == 1


def test_losses_that_are_all_alike() -> None:
    (message,) = history(uniform, losses=torch.full((N,), 2.3))
    assert "all alike" in message


def test_nothing_is_said_early_or_of_everything() -> None:
    assert history(concentrated, epochs=5) == []
    assert history(without_a_class, keep=1.0) == []
    assert not any("Classes" in text for text in history(without_a_class, labels=None))


def test_a_training_that_starves_classes(solo: Any) -> None:
    """Nothing is learned, so that one class has the highest losses for ever."""
    y = torch.arange(90) % 3
    data = torch.utils.data.TensorDataset(torch.nn.functional.one_hot(y, 5).float(), y, torch.arange(90))
    callback = ExampleSelection(TopLoss(0.1), ledger=True)
    with pytest.warns(UserWarning, match=r"Classes \d, \d are trained less than a tenth as often"):
        solo.fit(solo.make(Classifier, 0.0), callback, data=torch.utils.data.DataLoader(data, 18), max_epochs=8)


# ---------------------------------------------------------------------- the learning rate


def test_the_rate_is_raised_for_one_step() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [parameter], "lr": 0.1}])
    rate = RaisedLearningRate()
    rate.apply(optimizer, 1.0)
    assert optimizer.param_groups[0]["lr"] == 0.1
    for _ in range(2):
        for _ in range(3):  # closures
            rate.apply(optimizer, 2.0)
        assert optimizer.param_groups[0]["lr"] == 0.2
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.1  # what a schedule goes on from
    rate.apply(optimizer, 2.0)
    rate.restore()  # a step that a scaler left out
    rate.restore()
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_fewer_steps_are_made_longer(solo: Any) -> None:
    rates: list[tuple[float, float]] = []

    class Watched(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
            optimizer.register_step_post_hook(
                lambda *_: rates.append((optimizer.param_groups[0]["lr"], callback.memory.learning_rate_factor))
            )
            return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 1.0), "interval": "step"}]

    callback = ExampleSelection(HideLearned(fraction=0.5, confidence=0.4), refill=True)
    solo.fit(solo.make(Watched), callback, data=loader(64, 8), max_epochs=6)
    assert all(rate == pytest.approx(0.5 * factor) for rate, factor in rates)
    assert 1 < max(factor for _, factor in rates) <= 2
    plain = ExampleSelection(HideLearned(fraction=0.5, confidence=0.4))
    solo.fit(solo.make(Classifier), plain, data=loader(64, 8), max_epochs=6)
    assert plain.memory.learning_rate_factor == 1  # as many steps as ever
