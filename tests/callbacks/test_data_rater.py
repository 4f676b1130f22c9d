"""A rater that learns beside the training."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from litselect.callbacks import DataRater, ExampleSelection
from litselect.callbacks.live_ratings import LiveRatings
from litselect.callbacks.student_optimizer import read_optimizer
from litselect.callbacks.trust import Trust
from litselect.scoring import TableRater
from litselect.selectors import TopLoss
from tests.callbacks.kit import CLASSES, WIDTH, Classifier, loader, rows
from tests.callbacks.twins import Net, observe, unlike

FAST: dict[str, Any] = {"every": 1, "trust_after": 10, "rater_warmup": 1, "rater_lr": 0.01, "seed": 3}


def heldout(n: int = 24, **settings: Any) -> Any:
    x, y, _ = rows(n)
    return DataLoader(TensorDataset(x + 1, y, torch.arange(n)), 8, shuffle=True, **settings)


class Linear(nn.Module):
    """Rates by inputs and label."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.net(inputs).gather(1, targets[:, None]).squeeze(1)


# ---------------------------------------------------------------------- nothing shows

ALL: dict[str, Any] = {
    "statistics": {},
    "inputs and labels": {"rater": Linear},
    "two steps": {"inner_steps": 2},
    "unrolled": {"estimator": "unroll"},
    "by differences": {"estimator": "fd"},
}


def seen(kit: Any, *ours: Any) -> dict[str, Any]:
    """A training, less the notes of the steps that ran on a graph: look-aheads do."""
    return {**observe(kit, Net, *ours), "trained": None}


@pytest.mark.parametrize("name", ALL)
def test_with_all_rows_training_is_bit_identical(solo: Any, name: str) -> None:
    """Parameters, buffers, moments, random streams, logs: look-aheads read, and never write."""
    settings = {key: value() if key == "rater" else value for key, value in ALL[name].items()}
    callback = DataRater(heldout=heldout(), keep=1.0, **FAST, **settings)
    assert unlike(seen(solo), seen(solo, callback)) == []
    assert callback.rater_counters.meta_steps >= 4


def test_a_look_ahead_that_wrote_would_show(solo: Any, monkeypatch: Any) -> None:
    def live(self: Any) -> Any:
        parameters, buffers = original(self)
        next(iter(parameters)).data.add_(1e-6)
        return parameters, buffers

    from litselect.callbacks import student_objective

    original = student_objective.StudentObjective.live
    monkeypatch.setattr(student_objective.StudentObjective, "live", live)
    assert unlike(seen(solo), seen(solo, DataRater(heldout=heldout(), keep=1.0, **FAST))) != []


# ---------------------------------------------------------------------- the update that is looked ahead to

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, betas=(0.8, 0.9)),
    "groups": lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.1, "weight_decay": 0.0}, {"params": p[1:]}], 0.01),
}


@pytest.mark.parametrize("clip", [(0.0, None), (0.5, "norm"), (0.05, "value")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_that_of_the_optimizer(name: str, clip: Any) -> None:
    parameters = [nn.Parameter(torch.randn(4, 3).double()), nn.Parameter(torch.randn(4).double())]
    optimizer = OPTIMIZERS[name](parameters)
    for _ in range(4):
        gradients = [torch.randn_like(p) for p in parameters]
        before = [p.detach().clone() for p in parameters]
        update, moments, steps = read_optimizer(optimizer, parameters, clip)
        ahead, _ = update.update(before, moments, gradients, steps)
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        if clip[1] == "norm":
            nn.utils.clip_grad_norm_(parameters, clip[0])
        elif clip[1] == "value":
            nn.utils.clip_grad_value_(parameters, clip[0])
        optimizer.step()
        for found, expected in zip(ahead, parameters, strict=True):
            torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-9)


def test_an_unknown_optimizer_is_taken_for_sgd() -> None:
    parameters = [nn.Parameter(torch.randn(3))]
    with pytest.warns(UserWarning, match=r"optimizer is RMSprop: it is taken for plain SGD"):
        read_optimizer(torch.optim.RMSprop(parameters, 0.1), parameters, (0.0, None))


class Watched(Classifier):
    """With momentum, and a copy of everything before each step."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)


def test_the_influence_of_an_example_is_what_more_weight_would_do(solo: Any, monkeypatch: Any) -> None:
    """Against a real step of the real optimizer, from a copy of the module, with one weight changed."""
    found: list[Any] = []
    learn = LiveRatings._learn

    def note(self: Any, result: Any) -> None:
        trainer = self._trainer
        found.append((copy.deepcopy(trainer.lightning_module.net), copy.deepcopy(trainer.optimizers[0].state_dict())))
        found[-1] += (result,)
        learn(self, result)

    monkeypatch.setattr(LiveRatings, "_learn", note)
    module, judges = solo.make(Watched), heldout(8)
    solo.fit(module, DataRater(heldout=judges, keep=1.0, rater=Linear(), **FAST), data=loader(32))
    assert len(found) == 4
    net, state, result = found[2]
    net.double()
    x, y, _ = next(iter(DataLoader(loader(32).dataset, 8, sampler=range(16, 24))))
    hx, hy, _ = judges.dataset.tensors

    def after(weights: torch.Tensor) -> float:
        trial = copy.deepcopy(net)
        optimizer = torch.optim.SGD(trial.parameters(), lr=0.3, momentum=0.9)
        optimizer.load_state_dict(copy.deepcopy(state))
        (weights * F.cross_entropy(trial(x.double()), y, reduction="none")).sum().backward()
        optimizer.step()
        return F.cross_entropy(trial(hx.double()), hy).item()

    weights, step = result.weights[0].detach().double(), 1e-4
    assert float(result.loss) == pytest.approx(after(weights), rel=1e-5)
    for row in range(8):
        bump = torch.zeros(8).double().index_fill(0, torch.tensor([row]), step)
        slope = (after(weights + bump) - after(weights - bump)) / (2 * step)
        assert float(result.influences[0][row]) == pytest.approx(slope, rel=1e-3, abs=1e-5)


# ---------------------------------------------------------------------- trust


def test_ratings_are_trusted_once_they_agree() -> None:
    trust = Trust(after=5)
    for agreement in (0.3, 0.2, 0.3, 0.2):
        trust.note(agreement)
        assert not trust.trusted  # too early
    trust.note(0.3)
    assert trust.trusted
    for _ in range(50):
        trust.note(-0.1)
    assert not trust.trusted


def test_what_disagrees_or_says_nothing_is_not_trusted() -> None:
    draw = torch.Generator().manual_seed(0)
    for offset in (-0.3, 0.0):
        trust = Trust(after=5)
        for value in torch.randn(60, generator=draw).tolist():
            trust.note(offset + 0.3 * value)
        assert not trust.trusted
    again = Trust(after=5)
    again.load_state_dict(trust.state_dict())
    assert vars(again) == vars(trust)


def test_until_then_rows_are_drawn_uniformly(solo: Any) -> None:
    """By their places in 150 batches, whatever an untrained rater makes of them."""
    counts = torch.zeros(8)
    callback = DataRater(heldout=heldout(), rater=Linear(), keep=0.5, **{**FAST, "every": 10**6})
    module = solo.make(Classifier)
    solo.fit(module, callback, data=loader(8 * 150))
    for step in module.steps:
        if len(step) == 4:
            counts += torch.bincount(torch.tensor(step) % 8, minlength=8)
    assert counts.sum() == 4 * 150
    assert ((counts - 75).abs() < 31).all()  # five standard deviations


# ---------------------------------------------------------------------- what it learns

MIXED = 240


def noisy(seed: int) -> tuple[TensorDataset, torch.Tensor]:
    """Three separable classes, of which 40% of the labels are wrong; and which."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (MIXED,), generator=draw)
    x = torch.randn(MIXED, WIDTH, generator=draw) + 2.5 * F.one_hot(y, WIDTH)
    wrong = torch.rand(MIXED, generator=draw) < 0.4
    shift = torch.randint(1, CLASSES, (MIXED,), generator=draw)
    return TensorDataset(x, torch.where(wrong, (y + shift) % CLASSES, y), torch.arange(MIXED)), wrong


def clean(seed: int) -> Any:
    draw = torch.Generator().manual_seed(seed + 100)
    y = torch.randint(CLASSES, (48,), generator=draw)
    x = torch.randn(48, WIDTH, generator=draw) + 2.5 * F.one_hot(y, WIDTH)
    return DataLoader(TensorDataset(x, y, torch.arange(48)), 24, shuffle=True)


@pytest.mark.parametrize("seed", [1])
def test_it_turns_down_wrong_labels(solo: Any, seed: int) -> None:
    dataset, wrong = noisy(seed)
    torch.manual_seed(seed)
    callback = DataRater(heldout=clean(seed), keep=0.5, **{**FAST, "every": 2})
    module = solo.make(Classifier)
    solo.fit(module, callback, data=DataLoader(dataset, 24, shuffle=True), max_epochs=16)
    assert callback.live.trust.trusted
    late = torch.tensor([i for step in module.steps[-30:] if len(step) == 12 for i in step])
    assert wrong[late].double().mean() < 0.2  # of 0.4


# ---------------------------------------------------------------------- held-out data


def test_a_fraction_is_never_trained(solo: Any) -> None:
    module = solo.make(Classifier)
    callback = DataRater(heldout=0.25, keep=0.5, **FAST)
    solo.fit(module, callback, data=loader(32, shuffle=True), max_epochs=8)
    assert callback.live.excluded is not None
    held = set(callback.live.excluded.tolist())
    assert len(held) == 8
    assert not held & {i for step in module.steps for i in step if len(step) < 8}
    assert callback.counters.seen == 24 * 8
    assert callback.live.heldout._loader.dataset.indices == sorted(held)


def test_a_batch_of_held_out_rows_alone_makes_no_step(solo: Any) -> None:
    module = solo.make(Classifier)
    callback = DataRater(heldout=0.5, keep=1.0, floor=0.0, **FAST)
    trainer = solo.fit(module, callback, data=loader(8, batch_size=1))
    assert trainer.global_step == 4


BASE = TensorDataset(*rows(32))


@pytest.mark.parametrize(
    ("judges", "use"),
    [
        (DataLoader(BASE, 8), "training"),
        (DataLoader(Subset(BASE, range(8)), 8), "training"),
        ("validation", "validation"),
    ],
)
def test_held_out_examples_serve_nothing_else(solo: Any, judges: Any, use: str) -> None:
    validation = loader(16)
    judges = validation if judges == "validation" else judges
    module = solo.make(Net)
    trainer = solo.trainer(DataRater(heldout=judges, **FAST))
    with pytest.raises(ValueError, match=f"that are used for {use}, too"):
        trainer.fit(module, DataLoader(BASE, 8), validation)


def test_another_part_of_the_training_data_may_judge(solo: Any) -> None:
    judges, trained = Subset(BASE, range(8)), Subset(BASE, range(8, 32))
    solo.fit(solo.make(Classifier), DataRater(heldout=DataLoader(judges, 8), **FAST), data=DataLoader(trained, 8))


@pytest.mark.parametrize("source", [0.0, 1.0, 2, True])
def test_what_is_no_fraction_is_refused(source: Any) -> None:
    with pytest.raises(ValueError, match=r"the fraction of the training data that is held out, in \(0, 1\)"):
        DataRater(heldout=source)


# ---------------------------------------------------------------------- what can't work is refused


class ByHand(Classifier):
    """Manual optimization."""

    automatic_optimization = False


def test_manual_optimization_is_refused(solo: Any) -> None:
    with pytest.raises(ValueError, match="optimizes manually, so that no one knows what its step is"):
        solo.fit(solo.make(ByHand), DataRater(heldout=heldout()))


@pytest.mark.parametrize("setting", [{"every": 0}, {"inner_steps": 0}])
def test_numbers_out_of_range(setting: Any) -> None:
    with pytest.raises(ValueError, match="Expected numbers of at least 1"):
        DataRater(heldout=heldout(), **setting)


def test_it_is_one_of_the_family(solo: Any) -> None:
    assert isinstance(DataRater(heldout=heldout()), ExampleSelection)
    with pytest.raises(ValueError, match="can have one callback that selects examples"):
        solo.fit(solo.make(Classifier), DataRater(heldout=heldout()), ExampleSelection(TopLoss(0.5)))


def test_a_table_is_learned_by_id(solo: Any) -> None:
    rater = TableRater(32)
    held = DataRater(rater=rater, heldout=heldout(), **FAST)
    solo.fit(solo.make(Classifier), held, data=loader(32, shuffle=True), max_epochs=2)
    assert (rater.ratings != 0).all()


def test_what_is_logged_and_counted(solo: Any) -> None:
    logger = solo.logger()
    callback = DataRater(heldout=heldout(), keep=0.5, **{**FAST, "every": 2})
    solo.fit(solo.make(Classifier), callback, data=loader(32), logger=logger)
    row = logger.rows[0][1]
    assert {f"select/rater_{name}" for name in ("outer_loss", "spread", "agreement", "trusted")} <= row.keys()
    counted = callback.rater_counters
    assert (counted.meta_steps, counted.rated, counted.trained, counted.scored) == (2, 32, 2 * (8 + 8), 2 * 2 * 8)
    assert callback.counters.scored == 32
