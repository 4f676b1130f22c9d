"""Where a live rater meets what users have: streams, generators, frozen parts, augmentation, checkpointing."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Subset, TensorDataset

from litselect.callbacks import DataRater, ExampleSelection
from litselect.scoring import RaterArtifact, RaterTrainer, TableRater
from litselect.selectors import RatedSubset
from tests.callbacks.kit import CLASSES, WIDTH, Changing, Classifier, loader, rows
from tests.callbacks.test_data_rater import FAST, Linear, heldout
from tests.callbacks.test_ratings import Counted
from tests.callbacks.twins import Net, observe, unlike


def test_the_default_rater_draws_nothing() -> None:
    before = torch.get_rng_state()
    DataRater(heldout=0.1)
    assert torch.equal(torch.get_rng_state(), before)


class Dropping(Linear):
    """With dropout, which a rating must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return super().forward(self.drop(inputs), targets)


def test_a_rater_with_dropout_leaves_the_streams_alone(solo: Any) -> None:
    def seen(*ours: Any) -> dict[str, Any]:
        return {**observe(solo, Net, *ours), "trained": None}

    assert unlike(seen(), seen(DataRater(rater=Dropping(), heldout=heldout(), keep=1.0, **FAST))) == []


class Moving(Classifier):
    """A momentum encoder that the step itself moves, and augmentation from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = copy.deepcopy(self.net).requires_grad_(False)
        self.draw = torch.Generator().manual_seed(1)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, *rest = batch
        return (x + 0.1 * torch.randn(x.shape, generator=self.draw), *rest)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                slow.mul_(0.9).add_(fast, alpha=0.1)
        x, y, _ = batch
        return F.cross_entropy(self.net(x) + self.slow(x).detach(), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


def test_momentum_encoders_and_generators_of_the_module_stay(solo: Any) -> None:
    found = []
    for ours in ((), (DataRater(rater=Linear(), heldout=heldout(), keep=1.0, **FAST),)):
        module = solo.make(Moving)
        solo.fit(module, *ours, data=loader(32))
        found.append(torch.cat([*(p.reshape(-1) for p in module.parameters()), module.draw.get_state().float()]))
    assert torch.equal(*found)


def test_a_generator_that_both_loaders_draw_from_is_refused(solo: Any) -> None:
    draw = torch.Generator()
    training = loader(32, shuffle=True, generator=draw)
    with pytest.raises(ValueError, match="must draw its order from a generator of its own"):
        solo.fit(solo.make(Classifier), DataRater(heldout=heldout(generator=draw), **FAST), data=training)


@pytest.mark.parametrize("how", ["pops", "writes"])
@pytest.mark.parametrize("settings", [{}, {"inner_steps": 2}, {"estimator": "fd"}])
def test_a_step_that_changes_its_batch_is_looked_ahead_on_one_of_its_own(solo: Any, how: str, settings: Any) -> None:
    trained = []
    judges = [[*rows(8)] for _ in range(2)]
    for ours in ((), (DataRater(rater=Linear(), heldout=judges, keep=1.0, **FAST, **settings),)):
        module = solo.make(Changing, how)
        solo.fit(module, *ours, data=loader(32))
        trained.append(torch.cat([p.reshape(-1) for p in module.parameters()]))
    assert torch.equal(*trained)
    assert all(torch.equal(one, other) for one, other in zip(judges[0], rows(8), strict=True))


class Alternates(Classifier):
    """Trains two tasks in turns, and declines every third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        indices.append(batch_idx)
        return None if batch_idx % 3 == 2 else super().training_step(batch, batch_idx)


indices: list[int] = []


@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_a_look_ahead_is_that_of_the_batch_at_hand(solo: Any) -> None:
    """With its number, by which a step may go; one that is declined tells nothing."""
    indices.clear()
    callback = DataRater(rater=Linear(), heldout=heldout(), keep=0.5, **FAST)
    solo.fit(solo.make(Alternates), callback, data=loader(48))
    assert indices == sorted(indices)
    assert {*indices} == {0, 1, 2, 3, 4, 5}
    assert callback.rater_counters.meta_steps == 4


class Penalised(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + 0.1 * sum(p.square().sum() for p in self.parameters())


@pytest.mark.parametrize("estimator", ["auto", "jvp", "unroll", "adjoint", "fd"])
def test_a_part_of_the_loss_may_be_without_examples(solo: Any, estimator: Any) -> None:
    """A penalty on the parameters: no weight of an example has a share in it."""
    callback = DataRater(rater=Linear(), heldout=heldout(), estimator=estimator, **FAST)
    solo.fit(solo.make(Penalised), callback, data=loader(32))
    assert callback.live._estimator == ("jvp" if estimator == "auto" else estimator)


def test_after_an_error_nothing_of_the_training_is_kept(solo: Any) -> None:
    class Fails(Classifier):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("no more")

    callback = DataRater(rater=Linear(), heldout=heldout(), **FAST)
    with pytest.raises(RuntimeError, match="no more"):
        solo.fit(solo.make(Fails), callback, data=loader(32))
    assert callback.live._trainer is None
    copy.deepcopy(callback)


def test_another_training_holds_out_of_its_own_data(solo: Any) -> None:
    callback = DataRater(rater=Linear(), heldout=0.25, **FAST)
    for examples in (32, 64):
        solo.fit(solo.make(Classifier), callback, data=loader(examples))
        assert len(callback.live.excluded) == examples // 4  # type: ignore[arg-type]


# ---------------------------------------------------------------------- held-out rows


def test_a_part_of_the_training_data_is_not_validated_on(solo: Any) -> None:
    class Validated(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    training = loader(32)
    trainer = solo.trainer(DataRater(rater=Linear(), heldout=0.25, **FAST))
    with pytest.raises(ValueError, match="used for validation, too"):
        trainer.fit(solo.make(Validated), training, DataLoader(training.dataset, 8))


def test_several_loaders_are_all_looked_at(solo: Any) -> None:
    class Both(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"], batch_idx)

        def example_losses(self, batch: Any) -> Any:
            return self.losses(batch["a"])

    judges = heldout()
    rater = nn.Sequential(nn.Linear(WIDTH, 1), nn.Flatten(0))
    callback = DataRater(rater=rater, fields=lambda batch: {"inputs": batch["a"][0]}, heldout=judges, **FAST)
    both = {"a": loader(24), "b": DataLoader(judges.dataset, 8)}
    with pytest.raises(ValueError, match="used for training, too"):
        solo.fit(solo.make(Both), callback, data=both)


def test_they_are_not_even_loaded_for_training(solo: Any) -> None:
    dataset = Counted(48)
    callback = DataRater(heldout=0.25, keep=0.5, **{**FAST, "every": 10**6})
    solo.fit(solo.make(Classifier), callback, data=DataLoader(dataset, 12, shuffle=True))
    held = set(callback.live.excluded.tolist())  # type: ignore[union-attr] - it has met the data
    assert len(held) == 12
    assert sum(i in held for i in dataset.loaded) <= 12  # the one held-out batch


def test_nor_where_they_come_under_another_id(solo: Any) -> None:
    twice = Subset(TensorDataset(*rows(16)), [*range(16), *range(16)])
    callback = DataRater(heldout=0.25, keep=0.5, **FAST)
    solo.fit(solo.make(Classifier), callback, data=DataLoader(twice, 8))
    held = set(callback.live.excluded.tolist())  # type: ignore[union-attr] - it has met the data
    assert {i % 16 for i in held} == {i for i in range(16) if {i, i + 16} <= held}


def test_a_data_set_is_no_loader() -> None:
    with pytest.raises(ValueError, match="is a loader of batches, but got a data set"):
        DataRater(heldout=TensorDataset(*rows(8)))


def test_a_validation_loader_that_comes_late_is_seen(solo: Any) -> None:
    judges = loader(16)
    trainer = solo.trainer(DataRater(heldout=judges, **FAST), num_sanity_val_steps=0)
    with pytest.raises(ValueError, match="that are used for validation, too"):
        trainer.fit(solo.make(Net), loader(32), judges)


# ---------------------------------------------------------------------- what can't work


class Checkpointed(Classifier):
    """Computes its layer again in the backward pass."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(checkpoint(self.net, batch[0], use_reentrant=False), batch[1])


def test_activation_checkpointing_is_refused(solo: Any) -> None:
    with pytest.raises(RuntimeError, match=r"is under torch\.utils\.checkpoint"):
        solo.fit(solo.make(Checkpointed), DataRater(heldout=heldout(), rater=Linear(), **FAST))
    solo.fit(solo.make(Checkpointed))  # and is put back


def test_in_inner_models_too() -> None:
    def losses(module: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(checkpoint(module, batch[0], use_reentrant=False), batch[1], reduction="none")

    trainer = RaterTrainer(
        Linear(), lambda: nn.Linear(WIDTH, CLASSES), losses, loader(32), heldout(), population=1, progress=False
    )
    with pytest.raises(RuntimeError, match=r"is under torch\.utils\.checkpoint"):
        trainer.fit()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonfinite": "drop"}, "trains on all candidates"),
        ({"rater_lr": -1.0}, "Expected numbers > 0"),
        ({"clip": 0.0}, "Expected numbers > 0"),
        ({"rater": Linear().requires_grad_(False)}, "has none that require gradients"),
    ],
)
def test_settings_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataRater(heldout=0.1, **settings)


def test_ratings_of_what_is_in_a_batch_wait_for_it(solo: Any) -> None:
    artifact = RaterArtifact(Linear(), torch.zeros(3), {}, {})
    callback = ExampleSelection(RatedSubset(0.5), ratings=artifact, scoring="ledger")
    solo.fit(solo.make(Classifier), callback, data=loader(32), max_epochs=3)
    callback = ExampleSelection(RatedSubset(0.5), ratings=artifact, scoring="ledger", skip_loading=True)
    with pytest.raises(ValueError, match="they are rated by what is in them"):
        solo.fit(solo.make(Classifier), callback, data=loader(32))


# ---------------------------------------------------------------------- before and after a fit


def test_the_callback_can_be_copied_after_a_fit(solo: Any) -> None:
    callback = DataRater(heldout=0.25, rater=TableRater(32), **FAST)
    solo.fit(solo.make(Classifier), callback, data=loader(32))
    copy.deepcopy(callback)
    pickle.dumps(callback)


def test_another_module_is_not_trusted_on_the_word_of_the_first(solo: Any) -> None:
    callback = DataRater(heldout=heldout(), **FAST)
    solo.fit(solo.make(Classifier), callback, data=loader(32))
    solo.fit(solo.make(Classifier), callback, data=loader(32))
    assert callback.live.trust.steps == 4
