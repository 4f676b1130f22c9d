"""NoiseGuard(drop_top="auto"): the estimate reaches the rows, from what was met and from nothing else."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.selectors import KeepAll, LossPercentile, NoiseGuard, RankSampling, Selection, Selector
from litselect.selectors.noise_estimate import NoiseEstimate
from tests import shapes

UNKNOWN = torch.finfo(torch.float32).max


class Offered(Selector):
    """Notes which losses it was offered."""

    def __init__(self, keep: float = 0.25) -> None:
        super().__init__(keep)
        self.losses: list[float] = []

    def select(self, k: int, *, losses: Tensor) -> Selection:
        self.losses = losses.tolist()
        return Selection(torch.arange(k))


def batch(n: int, seed: int, share: float = 0.3) -> tuple[Tensor, Tensor]:
    """Losses and labels of two classes; the second is noisy."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % 2
    wrong = (torch.rand(n, generator=generator) < share) & (targets == 1)
    z = torch.randn(n, generator=generator).abs()
    return torch.where(wrong, 4 + z, 0.3 * z), targets


def met(guard: NoiseGuard, batches: int = 20) -> NoiseGuard:
    for seed in range(batches):
        losses, targets = batch(64, seed)
        guard(losses=losses, targets=targets)
    return guard


def test_rows_above_the_threshold_of_their_class_are_withheld() -> None:
    offered = Offered()
    guard = met(NoiseGuard(offered, drop_top="auto", seed=0))
    assert guard.estimate is not None
    assert guard.estimate.thresholds.isfinite().tolist() == [False, True]
    losses = torch.tensor([9.0, 9.0, 0.1, 0.1, 7.0, 0.2, 0.3, 0.4])
    guard(losses=losses, targets=torch.arange(8) % 2)
    assert sorted(offered.losses) == pytest.approx(sorted(losses[[0, 2, 3, 4, 5, 6, 7]].tolist()))


def test_the_estimate_is_that_of_the_last_losses_of_each_class() -> None:
    guard = NoiseGuard(Offered(), drop_top="auto", seed=0)
    everything: list[tuple[Tensor, Tensor]] = []
    guard._met = -(10**9)  # no limit is ever reached from below: it fits at every call
    for seed in range(24):
        everything.append(batch(64, seed))
        guard(losses=everything[-1][0], targets=everything[-1][1])
    losses, targets = (torch.cat(column) for column in zip(*everything, strict=True))
    last = torch.cat([(targets == c).nonzero()[:, 0][-512:] for c in (0, 1)])
    expected = NoiseEstimate.fit(losses[last], targets[last])
    assert guard.estimate is not None
    assert torch.allclose(guard.estimate.thresholds, expected.thresholds, rtol=1e-5)
    assert torch.allclose(guard.estimate.shares, expected.shares, rtol=1e-5)


def test_it_is_fitted_anew_when_a_quarter_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    fit_rows = NoiseEstimate.fit_rows

    def counted(losses: Tensor) -> NoiseEstimate:
        fits.append(calls)
        return fit_rows(losses)

    monkeypatch.setattr(NoiseEstimate, "fit_rows", counted)
    guard = NoiseGuard(Offered(), drop_top="auto", seed=0)
    with shapes.unchecked():
        for calls in range(80):
            losses, targets = batch(64, calls)
            guard(losses=losses, targets=targets)
    assert fits[:4] == [0, 1, 2, 3], "a third of what there is is new"
    assert {b - a for a, b in zip(fits[-6:-1], fits[-5:], strict=True)} == {4}, "a quarter of 1024, 64 at a time"


def test_nothing_is_withheld_before_there_is_enough() -> None:
    guard = NoiseGuard(Offered(), drop_top="auto", seed=0)
    for seed in range(2):  # 31 of each class, twice: two short of 64
        losses, targets = batch(62, seed)
        guard(losses=losses, targets=targets)
        assert guard.estimate is not None
        assert guard.estimate.thresholds.isinf().all()
    assert len(NoiseGuard(KeepAll(), drop_top="auto")(losses=torch.rand(3), targets=torch.full((3,), -1))) == 3


def test_rows_without_a_known_loss_or_label_are_let_through_and_not_remembered() -> None:
    offered = Offered(0.125)
    guard = met(NoiseGuard(offered, drop_top="auto", seed=0))
    before = guard._history.losses.clone()
    ones = torch.ones(8, dtype=torch.int64)
    high = torch.full((8,), 9.0)
    for signs in (
        {"losses": torch.full((8,), UNKNOWN), "targets": ones},
        {"losses": high, "targets": ones, "percentiles": torch.ones(8)},
        {"losses": high, "targets": ones, "ages": torch.full((8,), math.inf)},
        {"losses": high, "targets": -ones},
    ):
        guard(**signs)  # pyright: ignore
        assert len(offered.losses) == 8
        assert guard._history.losses.equal(before)
    guard(losses=high, targets=ones)
    assert len(offered.losses) == 1, "known, they would have been withheld as far as k allows"
    guard(losses=torch.full((8,), 9.0), targets=ones * 7)
    assert len(offered.losses) == 8, "a class that the estimate has not seen"


def test_k_comes_first() -> None:
    guard = met(NoiseGuard(Offered(0.75), drop_top="auto", seed=0))
    guard(losses=torch.tensor([9.0, 8.0, 7.0, 0.1]), targets=torch.ones(4, dtype=torch.int64))
    assert sorted(guard.selector.losses) == pytest.approx([0.1, 7.0, 8.0])  # pyright: ignore


def test_it_works_around_a_selection_by_percentiles() -> None:
    guard = NoiseGuard(RankSampling(0.25, pressure=1e9, seed=0), drop_top="auto")
    assert guard.needs == {"losses", "targets", "percentiles"}
    for seed in range(20):
        losses, targets = batch(64, seed)
        guard(losses=losses, targets=targets, percentiles=losses / 10)
    losses = torch.tensor([9.0, 0.1, 0.2, 0.3])
    inputs = {"targets": torch.ones(4, dtype=torch.int64), "percentiles": torch.tensor([0.99, 0.1, 0.2, 0.3])}
    assert guard(losses=losses, **inputs).indices.tolist() == [3]
    assert RankSampling(0.25, pressure=1e9)(**inputs).indices.tolist() == [0]
    for name in ("losses", "targets"):
        with pytest.raises(ValueError, match=f"{name} was not given"):
            guard(**{key: x for key, x in {"losses": losses, **inputs}.items() if key != name})  # pyright: ignore


def test_what_it_needs() -> None:
    assert NoiseGuard(LossPercentile(), drop_top="auto").needs == {"losses", "targets"}
    assert NoiseGuard(LossPercentile(), drop_top="auto").wants == {"losses", "targets"}
    assert NoiseGuard(LossPercentile(), drop_top=0.1).needs == {"losses"}


@pytest.mark.parametrize(
    "targets", [torch.rand(4), torch.zeros(4, 2, dtype=torch.int64), torch.tensor([0, 1, 2**16, 3])]
)
def test_what_is_no_label_is_refused(targets: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"one class label below 65536 per candidate, but targets are .* drop_top=0.05"
    ):
        NoiseGuard(KeepAll(), drop_top="auto")(losses=torch.rand(4), targets=targets)


def test_only_auto_is_a_word() -> None:
    with pytest.raises(ValueError, match=r"but got 'half'. Pass the share .* or \"auto\""):
        NoiseGuard(KeepAll(), drop_top="half")  # pyright: ignore


def test_the_estimate_is_state() -> None:
    guard = met(NoiseGuard(Offered(), drop_top="auto", seed=0), batches=19)
    heir = NoiseGuard(Offered(), drop_top="auto", seed=0)
    heir.load_state_dict(guard.state_dict())
    for seed in range(19, 30):
        losses, targets = batch(64, seed)
        for one in (guard, heir):
            one(losses=losses, targets=targets)
        assert guard.selector.losses == heir.selector.losses  # pyright: ignore
    assert guard.estimate is not None
    assert heir.estimate is not None
    assert guard.estimate.thresholds.equal(heir.estimate.thresholds)
    guard.reset()
    assert guard.estimate is None
    assert guard._history.losses.numel() == 0


# ---------------------------------------------------------------------- on a real training


def train(share: float, seed: int = 0) -> dict[str, float]:
    """A small network on ten overlapping clouds, guarded: which share of right and of wrong labels is above."""
    torch.manual_seed(seed)
    n, classes = 4000, 10
    truth = torch.randint(classes, (n,))
    inputs = 2 * torch.randn(classes, 16)[truth] * 0.7 + torch.randn(n, 16)
    wrong = torch.rand(n) < share
    labels = torch.where(wrong, (truth + torch.randint(1, classes, (n,))) % classes, truth)
    network: Any = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, classes))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    guard = NoiseGuard(Offered(1 / 64), drop_top="auto", seed=seed)
    above, total = torch.zeros(2), torch.zeros(2)
    with shapes.unchecked():
        for _ in range(6):
            for rows in torch.randperm(n).split(64):
                losses = F.cross_entropy(network(inputs[rows]), labels[rows], reduction="none")
                guard(losses=losses.detach(), targets=labels[rows])
                assert guard.estimate is not None
                thresholds = torch.cat([guard.estimate.thresholds, torch.full((classes,), math.inf)])
                suspected = losses > thresholds[labels[rows]]
                for i, group in enumerate((~wrong[rows], wrong[rows])):
                    above[i] += (suspected & group).sum()
                    total[i] += group.sum()
                losses.mean().backward()
                optimizer.step()
                optimizer.zero_grad()
    return {"false": (above / total.clamp_min(1))[0].item(), "recall": (above / total.clamp_min(1))[1].item()}


def test_the_false_drop_rate_of_a_training_on_right_labels() -> None:
    """From the first batch to the last. The bound is that of the card."""
    assert train(0.0)["false"] <= 1e-3


def test_wrong_labels_are_withheld_in_a_training() -> None:
    found = train(0.3)
    assert found["recall"] > 0.5, found
    assert found["false"] < 0.02, found
