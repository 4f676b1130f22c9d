"""Training a rater: algorithm 1 of the paper, and what tells that it works."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from litselect.scoring import RaterTrainer, StatisticsRater, TableRater
from litselect.scoring.meta_gradients import SGD, Adam, InnerState, LossObjective
from litselect.scoring.meta_training.learning_check import LearningCheck
from litselect.scoring.meta_training.meta_adam import MetaAdam
from litselect.scoring.meta_training.population import Population


class LabelRater(nn.Module):
    """One output per class, as LabelledImageRater has, for vectors."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Dropout(dropout), nn.Linear(64, 10))

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.net(inputs).gather(1, targets[:, None]).squeeze(1)


def cross_entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1], reduction="none")


def noisy_digits(share: float = 0.4) -> tuple[TensorDataset, TensorDataset, Tensor]:
    """Training data with wrong labels, held-out data without, and which are wrong."""
    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x, order = x.float() / 8 - 1, torch.randperm(len(x))
    train, heldout = order[:1000], order[1000:1100]
    wrong = torch.rand(1000) < share
    labels = torch.where(wrong, (y[train] + torch.randint(1, 10, (1000,))) % 10, y[train])
    return TensorDataset(x[train], labels), TensorDataset(x[heldout], y[heldout]), wrong


def auroc(ratings: Tensor, wrong: Tensor) -> float:
    good, bad = ratings[~wrong, None], ratings[None, wrong]
    return float(((good > bad).double() + 0.5 * (good == bad).double()).mean())


def trainer(rater: nn.Module | None = None, **settings: Any) -> RaterTrainer:
    """A small one; `settings` are those of RaterTrainer."""
    train, heldout, _ = noisy_digits()
    defaults: dict[str, Any] = {
        "rater": LabelRater() if rater is None else rater,
        "inner_factory": lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        "loss_fn": cross_entropy,
        "train_loader": DataLoader(train, 32, shuffle=True),
        "heldout_loader": DataLoader(heldout, 64, shuffle=True),
        "population": 2,
        "lifetime": 100,
        "meta_steps": 20,
        "warmup": 5,
        "progress": False,
    }
    return RaterTrainer(**{**defaults, **settings})


def test_wrong_labels_get_low_ratings() -> None:
    train, heldout, wrong = noisy_digits()
    training = trainer(
        train_loader=DataLoader(train, 64, shuffle=True), heldout_loader=DataLoader(heldout, 64, shuffle=True),
        inner_factory=lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        lifetime=150, meta_steps=120, warmup=20,
    )  # fmt: skip
    artifact = training.fit()
    assert auroc(artifact.scores(train), wrong) > 0.8
    losses = [line["outer_loss"] for line in training.history]
    assert sum(losses[:5]) / 5 > sum(losses[70:75]) / 5 + 0.5
    assert all(set(line) == {"outer_loss", "rating_std", "gradient_norm", "agreement"} for line in training.history)
    assert np.mean([line["agreement"] for line in training.history[50:]]) > 0.05
    assert artifact.settings["estimator"] == "unroll"
    assert artifact.quantiles.diff().min() >= 0
    assert len(set(artifact.data.values())) == 2


def test_statistics_of_a_model_can_be_rated() -> None:
    training = trainer(StatisticsRater(), inner_steps=1)
    artifact = training.fit()
    assert artifact.follows_model
    assert training.estimator == "jvp"
    assert training.history[-1]["rating_std"] > 0
    with pytest.raises(ValueError, match=r"rates by the statistics of the model in training.*Use it beside"):
        artifact.scores(noisy_digits()[0])


def test_statistics_need_a_cross_entropy() -> None:
    squares = lambda module, batch: (module(batch[0]) - F.one_hot(batch[1], 10)).square().mean(1)  # noqa: E731
    with pytest.raises(ValueError, match=r"it computes none over 32 rows of logits. Use"):
        trainer(StatisticsRater(), loss_fn=squares).fit()


# ---------------------------------------------------------------------- the algorithm


def test_models_persist_and_start_anew_one_after_the_other() -> None:
    training = trainer(lifetime=12, population=3, meta_steps=15, inner_steps=2, require_learning=False)
    population, steps = training._population, []
    renew, births = population.renew, []
    population.renew = lambda: (births.append([*population.ages]), renew())[1]  # type: ignore[method-assign]
    training._log.step = _after(training._log.step, lambda: steps.append([s.steps for s in population.states]))  # type: ignore[method-assign]
    training.fit()
    assert steps[0] == [2, 2, 2]
    assert steps[3] == [8, 8, 8]
    assert steps[4] == [2, 10, 10]  # the first lived for a third of a lifetime
    assert steps[8] == [10, 2, 18]
    assert steps[12] == [18, 10, 2]
    assert max(max(ages) for ages in births) == 12
    assert population.lives == [1, 1, 1]


def _after(method: Any, call: Any) -> Any:
    def both() -> Any:
        call()
        return method()

    return both


def test_each_life_begins_elsewhere() -> None:
    objective = LossObjective(nn.Linear(3, 2), cross_entropy)
    population = Population(lambda: nn.Linear(3, 2), objective, SGD(momentum=0.9), 2, 1, 0, torch.device("cpu"))
    first = [state.parameters[0] for state in population.states]
    for place, state in enumerate(population.states):
        population.advance(place, InnerState(state.parameters, state.buffers, state.moments, 5))
    assert population.renew() == [0, 1]
    weights = [*first, *(state.parameters[0] for state in population.states)]
    assert all(not weights[i].equal(weights[j]) for i in range(4) for j in range(i))
    assert [state.steps for state in population.states] == [0, 0]
    again = Population(lambda: nn.Linear(3, 2), objective, SGD(momentum=0.9), 2, 1, 0, torch.device("cpu"))
    assert again.states[1].parameters[0].equal(first[1])


def test_updates_are_averaged_not_gradients() -> None:
    """Two models whose gradients differ by five orders of magnitude have one voice each, as two runs of AdamW say."""
    large, small = (torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    parameter = torch.ones(4)
    meta = MetaAdam([parameter], 2, lr=0.01, weight_decay=0.1, warmup=0, clip=1e9)
    for g, h in zip(large, 1e-5 * small, strict=True):
        start = parameter.clone()
        ends = []
        for model, history in ((0, large), (1, 1e-5 * small)):
            ends.append(_adamw_step(start, history[: meta.steps + 1]))
            meta.propose(model, [(g, h)[model]])
        meta.step()
        torch.testing.assert_close(parameter, sum(ends) / 2)


def _adamw_step(start: Tensor, gradients: Tensor) -> Tensor:
    """Where AdamW goes from `start` after it has seen all but the last gradient elsewhere."""
    live = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([live], lr=0.01, weight_decay=0.1, eps=1e-12)
    for gradient in gradients:
        live.data.copy_(start)
        live.grad = gradient.clone()
        optimizer.step()
    return live.detach()


def test_warmup_decay_and_clip() -> None:
    parameter = torch.full((2,), 2.0)
    meta = MetaAdam([parameter], 1, lr=0.1, weight_decay=0.5, warmup=4, clip=0.01)
    norm = meta.propose(0, [torch.tensor([3.0, 4.0])])
    assert float(norm) == 5
    torch.testing.assert_close(meta._mean[0][0], 0.1 * torch.tensor([0.006, 0.008]))  # scaled to the norm 0.01
    meta.step()
    torch.testing.assert_close(parameter, 2.0 - 0.1 / 4 * (torch.ones(2) + 0.5 * 2.0))
    before = parameter.clone()
    meta.propose(0, [torch.zeros(2)])
    meta.step()
    moved = (before - parameter) / (0.1 * 2 / 4)
    assert ((moved - 0.5 * before) < 1).all()


# ---------------------------------------------------------------------- models that do not learn


def test_models_that_do_not_learn_are_an_error() -> None:
    """The defect of an implementation whose inner models stayed at their initialisation."""
    with pytest.raises(RuntimeError, match=r"inner models that learn, but the held-out loss.*Raise the learning rate"):
        trainer(inner_optimizer=SGD(lr=0.0), meta_steps=60, lifetime=50, inner_steps=1).fit()
    training = trainer(inner_optimizer=SGD(lr=0.0), meta_steps=10, require_learning=False)
    training.fit()
    assert len(training.history) == 10


def test_models_that_do_not_advance_are_an_error() -> None:
    training = trainer(meta_steps=60, lifetime=50, inner_steps=1)
    training._population.advance = lambda place, state: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="inner models that learn"):
        training.fit()


@pytest.mark.parametrize("shape", ["falls", "falls and rises", "falls slowly", "stays", "rises"])
def test_what_counts_as_learning(shape: str) -> None:
    noise = random.Random(0)
    curve = {
        "falls": lambda t: 2.3 - min(t, 40) / 20,
        "falls and rises": lambda t: 2.3 - 1.5 * min(t, 12) / 12 + 1.2 * t / 200,  # learns, then fits wrong labels
        "falls slowly": lambda t: 2.3 - t / 1000,
        "stays": lambda t: 2.3,
        "rises": lambda t: 2.3 + t / 100,
    }[shape]
    check = LearningCheck(4)
    for t in range(200):
        for place in range(4):
            check.note(place, curve(t) + noise.gauss(0, 0.1))
    for place in range(3):
        check.ended(place)
    if shape in {"stays", "rises"}:
        with pytest.raises(RuntimeError, match=r"fell by .* over 4 lives"):
            check.look()
    else:
        check.look()


# ---------------------------------------------------------------------- what users pass


def test_nothing_outside_changes() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002 - the global one
    rater, train = LabelRater(dropout=0.5), noisy_digits()[0]
    torch.set_rng_state(states[0])
    training = trainer(rater, heldout_loader=0.1, train_loader=DataLoader(train, 32, shuffle=True), meta_steps=3)
    torch.set_rng_state(states[0])  # noisy_digits draws
    artifact = training.fit()
    artifact.scores(train)
    assert torch.get_rng_state().equal(states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]  # noqa: NPY002 - the same


def test_frozen_parts_of_a_rater_stay() -> None:
    rater = LabelRater()
    rater.net[0].requires_grad_(False)
    flags: list[bool] = []
    rater.net[0].register_forward_hook(lambda module, *arguments: flags.append(module.weight.requires_grad))
    before = [p.clone() for p in rater.parameters()]
    training = trainer(rater, meta_steps=3)
    training.fit()
    after = list(rater.parameters())
    assert [a.equal(b) for a, b in zip(before, after, strict=True)] == [True, True, False, False]
    assert not any(flags)
    with pytest.raises(ValueError, match=r"has none that require gradients. Unfreeze"):
        trainer(rater)  # an artifact's is frozen


def test_dicts_short_batches_and_tables() -> None:
    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 70

        def __getitem__(self, i: int) -> dict[str, Any]:
            return {"x": torch.randn(64, generator=torch.Generator().manual_seed(i)), "label": i % 10, "id": i}

    train, heldout = Subset(Rows(), range(50)), Subset(Rows(), range(50, 70))
    training = trainer(
        TableRater(70), loss_fn=lambda module, batch: cross_entropy(module, (batch["x"], batch["label"])),
        train_loader=DataLoader(train, 16), heldout_loader=DataLoader(heldout, 12), meta_steps=10, population=1,
        require_learning=False, inner_optimizer=Adam(lr=0.01),
    )  # fmt: skip
    ratings = training.fit().scores(Rows())
    assert ratings.shape == (70,)
    assert ratings[:50].ne(0).all()
    assert ratings[50:].eq(0).all()


def test_float64_models() -> None:
    double = lambda: nn.Sequential(nn.Linear(64, 10)).double()  # noqa: E731
    loss = lambda module, batch: cross_entropy(module, (batch[0].double(), batch[1]))  # noqa: E731
    for steps in (1, 2):
        training = trainer(inner_factory=double, loss_fn=loss, inner_steps=steps, meta_steps=3)
        training.fit()
        assert training._population.states[0].parameters[0].dtype == torch.float64


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1, but got {'inner_steps': 0, 'checkpoint_every': 0}. Raise"):
        trainer(inner_steps=0, checkpoint_every=0)
    with pytest.raises(ValueError, match=r"parameters to train, but Identity has none"):
        trainer(nn.Identity())
    with pytest.raises(ValueError, match=r"batch_size=1, whose one example always weighs 1. Raise"):
        trainer(train_loader=DataLoader(noisy_digits()[0]))
    with pytest.raises(FloatingPointError, match=r"must be finite, but its norm is nan at meta-step 0.*Lower"):
        trainer(loss_fn=lambda module, batch: cross_entropy(module, batch) * float("nan")).fit()
