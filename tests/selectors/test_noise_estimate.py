"""The mixture of losses, class by class: what it finds, what it must not find, and how often it does."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from litselect.selectors import noise_estimate
from litselect.selectors.class_losses import ClassLosses
from litselect.selectors.noise_estimate import NoiseEstimate
from tests import shapes

CLASSES, EACH = 100, 512

CLEAN = {
    # Losses as training on right labels leaves them: margins of a normal law through the logistic loss, early and late;
    # skewed ones; all alike at the start; learned ones with a tail of hard ones.
    "margins": lambda u, z: F.softplus(-(2 * z + 3)),
    "wide margins": lambda u, z: F.softplus(-(4 * z + 6)),
    "exponential": lambda u, z: -u.log(),
    "half-normal": lambda u, z: z.abs(),
    "log-normal": lambda u, z: (z - 1).exp(),
    "chance": lambda u, z: math.log(10) + 0.05 * z,
    "learned with a tail": lambda u, z: torch.where(z > 0.84, -u.log(), -0.01 * u.log()),
    "uniform": lambda u, z: 3 * u,
}

WRONG = {
    "confident": lambda z: (5 + 1.5 * z).abs(),
    "calibrated": lambda z: (3.5 + 0.8 * z).abs(),
}


def clean(kind: str, seed: int = 0, classes: int = CLASSES, each: int = EACH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    u = 1 - torch.rand(classes, each, generator=generator, dtype=torch.float64)
    return CLEAN[kind](u, torch.randn(classes, each, generator=generator, dtype=torch.float64))


def noisy(kind: str, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + 1)
    wrong = torch.rand(CLASSES, EACH, generator=generator) < share
    z = torch.randn(CLASSES, EACH, generator=generator, dtype=torch.float64)
    return torch.where(wrong, WRONG[kind](z), clean("margins", seed)), wrong


def fit(losses: Tensor, together: int = 10) -> Tensor:
    """Thresholds, ``[classes, 1]``; so many classes belong together."""
    return torch.cat([NoiseEstimate.fit_rows(block).thresholds for block in losses.split(together)])[:, None]


def drop_rate(losses: Tensor, together: int = 10) -> float:
    return (losses > fit(losses, together)).double().mean().item()


# ---------------------------------------------------------------------- a slow reference


def log_beta(p: float, a: float, b: float) -> float:
    constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return constant + (a - 1) * math.log(p) + (b - 1) * math.log1p(-p)


def reference(losses: list[float], chance: float) -> float:
    """The threshold of one class, one number at a time."""
    losses = [loss for loss in losses if math.isfinite(loss)]
    if not losses:
        return math.inf
    p = [min(max(math.exp(-loss), 1e-3), 1 - 1e-3) for loss in losses]
    shares = [1 - x for x in p]

    def moments(weights: list[float]) -> tuple[float, float, float, float]:
        total = max(sum(weights), 1e-9)
        mean = sum(w * x for w, x in zip(weights, p, strict=True)) / total
        variance = max(sum(w * (x - mean) ** 2 for w, x in zip(weights, p, strict=True)) / total, 1e-6)
        size = max(mean * (1 - mean) / variance - 1, 1e-2)
        return math.log(total / len(p)), mean, mean * size, (1 - mean) * size

    for _ in range(30):
        wrong, right = moments(shares), moments([1 - share for share in shares])
        odds = [wrong[0] + log_beta(x, *wrong[2:]) - right[0] - log_beta(x, *right[2:]) for x in p]
        shares = [1 / (1 + math.exp(-o)) if o > -700 else 0.0 for o in odds]
    low, high = wrong[1], right[1]
    for _ in range(30):
        x = (low + high) / 2
        is_wrong = wrong[0] + log_beta(x, *wrong[2:]) > right[0] + log_beta(x, *right[2:])
        low, high = (x, high) if is_wrong else (low, x)
    border = min((low + high) / 2, 0.5)
    upper = [loss for loss, x in zip(losses, p, strict=True) if x < border]
    width = border * 2 / 3

    def within(start: float, end: float) -> int:
        return sum(start <= x < end for x in p)

    valley = within(width, 2 * width)
    above = max(within(right[1] - width / 2, right[1] + width / 2), within(1 - width, 1))
    peak = min(within(0, width), above)
    clear = peak - valley > 3 * math.sqrt(peak + valley)
    clear = clear and bool(upper) and sum(upper) / len(upper) > chance and len(upper) < len(p) / 2 and len(p) >= 64
    return max(-math.log(border), chance) if clear else math.inf


def test_it_equals_the_slow_reference() -> None:
    mixed, _ = noisy("confident", 0.3)
    rows = [mixed[0, :150], mixed[1, :63], mixed[2, :300], clean("margins")[0, :200], mixed[3, :200]]
    rows.insert(1, torch.empty(0, dtype=torch.float64))  # a class without losses
    losses, classes = torch.cat(rows), torch.cat([torch.full((len(row),), i) for i, row in enumerate(rows)])
    order = torch.randperm(len(losses))
    found = NoiseEstimate.fit(losses[order], classes[order])
    expected = [reference(row.tolist(), math.log(5)) for row in rows]
    assert found.thresholds.tolist() == pytest.approx(expected, rel=1e-5)
    assert [math.isfinite(x) for x in expected] == [True, False, False, True, False, True]
    shares = [(row > x).double().mean().item() if len(row) else 0.0 for row, x in zip(rows, expected, strict=True)]
    assert found.shares.tolist() == pytest.approx(shares)


# ---------------------------------------------------------------------- what it finds


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_wrong_labels_are_found(kind: str, share: float) -> None:
    losses, wrong = noisy(kind, share)
    thresholds = fit(losses)
    dropped = losses > thresholds
    acts = thresholds.isfinite().double().mean().item()
    figures = [acts, dropped[wrong].double().mean().item(), dropped[~wrong].double().mean().item()]
    if share >= 0.2:
        assert figures[0] > 0.95, figures
        assert figures[1] > 0.8, figures
        assert NoiseEstimate.fit_rows(losses[:10]).shares.mean().item() == pytest.approx(share, abs=0.05)
    assert figures[2] < 0.01, figures


def test_a_scale_of_its_own_for_every_class() -> None:
    """One class noisy, nine clean."""
    losses = clean("margins", classes=10)
    losses[3] = noisy("confident", 0.2)[0][0]
    found = NoiseEstimate.fit_rows(losses)
    assert found.thresholds.isfinite().tolist() == [i == 3 for i in range(10)]


# ---------------------------------------------------------------------- what it must not find


@pytest.mark.parametrize("each", [64, 128, EACH])
@pytest.mark.parametrize("kind", CLEAN)
def test_the_false_drop_rate_on_clean_losses(kind: str, each: int) -> None:
    """At most one right label in a thousand: no class of 100 is acted on, in most kinds."""
    losses = clean(kind, each=each)
    assert drop_rate(losses) <= 1e-3


@pytest.mark.parametrize(
    "kind",
    [
        "margins",
        "learned with a tail",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("wide margins", "half-normal")),
    ],
)
def test_without_the_valley_clean_losses_would_be_dropped(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups are always found. Of two classes the loss of chance is low, so that the valley decides alone."""
    assert drop_rate(clean(kind), together=2) == 0
    monkeypatch.setattr(noise_estimate, "_has_valley", lambda p, there, *_: there.any(1))
    assert drop_rate(clean(kind), together=2) > 0.02


def test_what_is_no_worse_than_chance_is_not_learned_yet() -> None:
    """Half learned, a third at chance: bimodal, but nothing is wrong. The same further up is."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(10, EACH, generator=generator, dtype=torch.float64)
    unlearned = torch.rand(10, EACH, generator=generator) < 0.3
    for level, acts in ((math.log(10) - 0.2, False), (math.log(10) + 1.5, True)):
        losses = torch.where(unlearned, level + 0.1 * z, 0.05 * z.abs())
        assert NoiseEstimate.fit_rows(losses).thresholds.isfinite().tolist() == [acts] * 10


def test_the_larger_group_is_not_the_wrong_one() -> None:
    for share, acts in ((0.4, True), (0.65, False)):
        losses, _ = noisy("confident", share)
        assert bool(fit(losses).isfinite().double().mean() > 0.9) is acts


def test_of_too_few_losses_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, _ = noisy("confident", 0.45)
    assert fit(losses[:, :63]).isinf().all()
    assert fit(losses[:, :64]).isfinite().any()
    monkeypatch.setattr(noise_estimate, "_FEWEST", 1)
    assert fit(losses[:, :63]).isfinite().any()


def test_losses_that_are_no_numbers_are_left_out() -> None:
    losses, _ = noisy("confident", 0.3)
    spoilt = torch.cat([losses, torch.tensor([math.inf, math.nan, -math.inf]).double().expand(CLASSES, 3)], 1)
    assert fit(spoilt).equal(fit(losses))
    assert fit(losses).isfinite().any()


# ---------------------------------------------------------------------- the history


def test_the_rings_equal_lists() -> None:
    generator = torch.Generator().manual_seed(0)
    history, lists = ClassLosses(5), {i: [] for i in range(4)}
    with shapes.unchecked():
        for batch in range(40):
            n = int(torch.randint(0, 24, (), generator=generator))
            classes = torch.randint(0, 2 if batch < 5 else 4, (n,), generator=generator)
            losses = torch.rand(n, generator=generator)
            history.append(losses, classes)
            for loss, label in zip(losses.tolist(), classes.tolist(), strict=True):
                lists[label] = [*lists[label], loss][-5:]
            for label, row in enumerate(history.losses):
                assert sorted(row[row.isfinite()].tolist()) == sorted(lists[label])
    copy = ClassLosses(5)
    copy.load_state_dict(history.state_dict())
    for ring in (history, copy):
        ring.append(torch.full((3,), 9.0), torch.tensor([1, 2, 1]))
    assert copy.losses.equal(history.losses)
