"""Unbiased weights, by enumeration; the switch, against the published formula."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from litselect.selectors import ImportanceSampling
from litselect.selectors.fixed_size import systematic_sample
from litselect.selectors.pay_switch import PaySwitch
from tests import shapes
from tests.host_syncs import HostSyncs


def problem(n: int = 10, classes: int = 4, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Logits and targets of uneven difficulty, and a gradient of every example in eleven dimensions."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    targets = torch.where(
        torch.rand(n, generator=generator) < 0.6, logits.argmax(1), torch.randint(classes, (n,), generator=generator)
    )
    return {"logits": logits, "targets": targets}, torch.randn(n, 11, generator=generator, dtype=torch.float64)


class Enumerated(ImportanceSampling):
    """Draws what it is told."""

    def __init__(self, *args: float, order: Tensor, **kwargs: object) -> None:
        super().__init__(*args, seed=0, **kwargs)  # pyright: ignore
        self.order, self.start = order, 0.0

    def shuffled(self, n: int, device: torch.device) -> Tensor:
        return self.order

    def uniform(self, n: int, device: torch.device) -> Tensor:
        return torch.tensor([self.start], dtype=torch.float64)


def exact_expectation(
    make: type[ImportanceSampling], keep: float, seed: int, **kwargs: object
) -> tuple[Tensor, Tensor]:
    """The expected weighted mean gradient over every start of the comb, in a fixed order; and the true mean."""
    inputs, gradients = problem(seed=seed)
    n = len(gradients)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    selector = make(keep, 0.0, order=order, **kwargs)  # pyright: ignore
    k = selector.count(n)
    # The choice changes only where a tooth meets the end of a row: the starts that bring the ends to whole numbers.
    selector(**inputs)
    pi = inclusion_of(selector, inputs, k)
    ends = pi[order].cumsum(0)
    corners = torch.cat([torch.tensor([0.0, 1.0]).double(), (1 - ends % 1) % 1]).sort().values
    mean = torch.zeros(gradients.shape[1], dtype=torch.float64)
    for left, right in zip(corners[:-1].tolist(), corners[1:].tolist(), strict=True):
        if right - left < 1e-12:
            continue
        selector.start = (left + right) / 2  # pyright: ignore
        chosen = selector(**inputs)
        assert chosen.weights is not None
        assert chosen.inclusion is not None
        assert torch.allclose(chosen.inclusion.double(), pi[chosen.indices], atol=1e-6)
        mean += (right - left) * (chosen.weights.double()[:, None] * gradients[chosen.indices]).mean(0)
    return mean, gradients.mean(0)


def scores_of(inputs: dict[str, Tensor]) -> list[float]:
    scores = []
    for z, y in zip(inputs["logits"].double(), inputs["targets"].tolist(), strict=True):
        p = z.softmax(0)
        p[y] -= 1
        scores.append(math.sqrt(sum(x * x for x in p.tolist())))
    return scores


def inclusion_of(selector: ImportanceSampling, inputs: dict[str, Tensor], k: int) -> Tensor:
    """The reference: score by score, then capped and floored by bisection."""
    scores = scores_of(inputs)
    floor = k / (len(scores) * selector.max_weight)
    low, high = 0.0, 1e9
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if sum(floor + min(1 - floor, c * s) for s in scores) < k else (low, c)
    return torch.tensor([floor + min(1 - floor, high * s) for s in scores], dtype=torch.float64)


@pytest.mark.parametrize("max_weight", [1.0, 2.0, 10.0, math.inf])
@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_expected_gradient_is_the_full_one_exactly(keep: float, seed: int, max_weight: float) -> None:
    estimate, truth = exact_expectation(Enumerated, keep, seed, max_weight=max_weight)
    assert (estimate - truth).abs().max() < 1e-6


def test_the_expected_gradient_is_the_full_one_over_many_draws() -> None:
    inputs, gradients = problem(n=16)
    selector = ImportanceSampling(0.25, 0.0, seed=0)
    draws = 4000
    estimates = torch.empty(draws, gradients.shape[1], dtype=torch.float64)
    with shapes.unchecked():
        for i in range(draws):
            chosen = selector(**inputs)
            estimates[i] = (chosen.weights.double()[:, None] * gradients[chosen.indices]).mean(0)  # pyright: ignore
    error = (estimates.mean(0) - gradients.mean(0)).abs()
    assert (error < 5 * estimates.std(0) / draws**0.5).all()


class UnweightedInSecret(Enumerated):
    def select(self, k: int, **scores: object):
        chosen = super().select(k, **scores)  # pyright: ignore
        return type(chosen)(chosen.indices, torch.ones(k), chosen.inclusion)


class ScoresAsLaw(Enumerated):
    """Weighs by the law instead of the inclusion: what rivals do."""

    def select(self, k: int, **scores: object):
        chosen = super().select(k, **scores)  # pyright: ignore
        law = torch.tensor(scores_of(scores))  # pyright: ignore
        return type(chosen)(chosen.indices, law.mean() / law[chosen.indices], chosen.inclusion)


def test_missing_or_wrong_weights_would_be_noticed() -> None:
    for wrong in (UnweightedInSecret, ScoresAsLaw):
        estimate, truth = exact_expectation(wrong, 0.5, 0)
        assert (estimate - truth).abs().max() > 1e-2


def test_it_draws_as_the_comb_does() -> None:
    inputs, _ = problem()
    selector, twin = ImportanceSampling(0.5, 0.0, seed=3), ImportanceSampling(0.5, 0.0, seed=3)
    order, start = twin.shuffled(10, torch.device("cpu")), twin.uniform(1, torch.device("cpu"))
    expected = systematic_sample(inclusion_of(selector, inputs, 5), 5, order, start)
    assert selector(**inputs).indices.tolist() == expected.tolist()


def test_soft_targets_are_scored() -> None:
    inputs, _ = problem()
    soft = torch.nn.functional.one_hot(inputs["targets"], 4).float()
    one, other = ImportanceSampling(0.5, 0.0, seed=3), ImportanceSampling(0.5, 0.0, seed=3)
    chosen, also = one(**inputs), other(logits=inputs["logits"], targets=soft)
    assert chosen.indices.equal(also.indices)
    assert torch.allclose(chosen.weights, also.weights)  # pyright: ignore


def test_no_weight_exceeds_its_bound() -> None:
    logits = torch.tensor([[30.0, 0.0]] * 9 + [[0.0, 30.0]])
    targets = torch.zeros(10, dtype=torch.int64)
    for bound in (1.0, 4.0, 10.0):
        weights = [
            ImportanceSampling(0.2, 0.0, max_weight=bound, seed=seed)(logits=logits, targets=targets).weights.max()  # pyright: ignore
            for seed in range(30)
        ]
        assert max(weights) <= bound * (1 + 1e-6)


def test_the_baseline_draws_by_loss_without_weights() -> None:
    losses = torch.tensor([4.0, 1.0, 1.0, 1.0, 1.0])
    kept = torch.zeros(5)
    with shapes.unchecked():
        for seed in range(1000):
            chosen = ImportanceSampling(0.4, 0.0, score="loss", weighted=False, max_weight=1e9, seed=seed)(
                losses=losses
            )
            assert chosen.weights is None
            kept[chosen.indices] += 1 / 1000
    assert kept.tolist() == pytest.approx([1.0, 0.25, 0.25, 0.25, 0.25], abs=5 * (0.25 * 0.75 / 1000) ** 0.5)


def test_negative_losses_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 of 3 losses are negative. Use LossPercentile"):
        ImportanceSampling(score="loss")(losses=torch.tensor([1.0, -1.0, 2.0]))


# ---------------------------------------------------------------------- on and off


def published_tau(scores: list[float]) -> float:
    n, total = len(scores), sum(scores)
    p = [s / total for s in scores]
    distance = sum((x - 1 / n) ** 2 for x in p)
    return 1 / math.sqrt(1 - distance / sum(x * x for x in p))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.floats(0.01, 10), min_size=2, max_size=8), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, 0.9]),
)
def test_tau_equals_the_published_formula(stream: list[list[float]], smoothing: float) -> None:
    switch = PaySwitch(smoothing, 16)
    total = 0.0
    for i, scores in enumerate(stream):
        total = smoothing * total + (1 - smoothing) * published_tau(scores)
        expected = total / (1 - smoothing ** (i + 1))
        for threshold in (0.98 * expected, 1.02 * expected):
            other = PaySwitch(smoothing, 16)
            other.load_state_dict(switch.state_dict())
            on = other.update(torch.tensor(scores, dtype=torch.float64), threshold)
            assert bool(on) == other.on == (threshold < expected)
        switch.update(torch.tensor(scores, dtype=torch.float64), 1.5)
        assert switch.tau == pytest.approx(expected, abs=1e-6)


def outlying(n: int, hard: int) -> dict[str, Tensor]:
    """Scores near 0 but for `hard` rows of equal score: tau = sqrt(n / hard)."""
    logits = torch.tensor([[0.0, 40.0]] * hard + [[40.0, 0.0]] * (n - hard))
    return {"logits": logits, "targets": torch.zeros(n, dtype=torch.int64)}


@pytest.mark.parametrize(("keep", "cost"), [(1 / 3, 1 / 3), (0.5, 1 / 3), (0.25, 0.1), (0.5, 1.0)])
def test_it_is_on_exactly_when_the_gain_exceeds_the_cost(keep: float, cost: float) -> None:
    """(s N + 3 k) / (3 k) with s = 3 * cost; 2 for a forward pass and k = N / 3, the paper's."""
    n = 24
    k, s = round(keep * n), 3 * cost
    threshold = (s * n + 3 * k) / (3 * k)
    for hard in range(1, n):
        selector = ImportanceSampling(keep, cost, seed=0)
        selector(**outlying(n, hard))
        gain = math.sqrt(n / hard)
        if abs(gain - threshold) > 1e-5:
            assert selector.active is (gain > threshold)


def test_the_default_threshold_is_the_published_one() -> None:
    assert not _on_after(outlying(12, 3)), "tau is 2 and must exceed 2"
    assert _on_after(outlying(12, 2))


def _on_after(inputs: dict[str, Tensor]) -> bool:
    selector = ImportanceSampling()
    selector(**inputs)
    return selector.active


def test_equal_scores_never_switch_it_on() -> None:
    for value in (0.0, 0.1, 1 / 3, 7.0):
        selector = ImportanceSampling(0.5, 0.0, score="loss")
        for _ in range(50):
            selector(losses=torch.full((13,), value))
        assert not selector.active
        assert selector.switch.tau == pytest.approx(1)


def test_nothing_is_to_be_gained_at_k_equal_to_n() -> None:
    selector = ImportanceSampling(1.0, 0.0)
    assert selector(**outlying(12, 1)).weights.tolist() == pytest.approx([1.0] * 12)  # pyright: ignore
    assert not selector.active


def test_while_off_it_asks_for_the_first_and_every_mth_batch() -> None:
    selector = ImportanceSampling(0.5, probe_every=4, seed=0)
    asked = []
    for _ in range(10):
        asked.append(selector.wants_scores)
        assert selector.wants == (selector.needs if asked[-1] else frozenset())
        chosen = selector(**outlying(12, 11)) if asked[-1] else selector(candidates=12)
        assert chosen.weights.tolist() == pytest.approx([1.0] * 6)  # pyright: ignore
        assert chosen.inclusion.tolist() == pytest.approx([0.5] * 6)  # pyright: ignore
    assert asked == [True, False, False, False, True, False, False, False, True, False]


def test_scores_that_are_not_wanted_are_checked_all_the_same() -> None:
    selector = ImportanceSampling(0.5, score="loss", seed=0)
    selector(losses=torch.ones(4))
    assert not selector.wants_scores
    with pytest.raises(ValueError, match=r"can't rank losses .* 1 of 4 rows are NaN or inf"):
        selector(losses=torch.tensor([1.0, math.nan, 1.0, 1.0]))


def test_scores_that_are_wanted_are_asked_for() -> None:
    with pytest.raises(ValueError, match="logits, targets was not given"):
        ImportanceSampling()(candidates=12)


def test_it_says_when_it_switches(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "litselect")
    selector = ImportanceSampling(0.5, smoothing=0.0, probe_every=3, seed=0)
    for hard in (11, 11, 11, 1, 1, 11, 11):
        selector(**(outlying(12, hard) if selector.wants_scores else {"candidates": 12}))  # pyright: ignore
    assert selector.switch.switched_at == [3, 5]
    assert [record.getMessage() for record in caplog.records] == [
        "Importance sampling switches on at batch 3.",
        "Importance sampling switches off at batch 5.",
    ]


def test_while_off_rows_are_random() -> None:
    """Scored or not."""
    for inputs in (outlying(8, 7), None):
        kept = torch.zeros(8)
        with shapes.unchecked():
            for seed in range(600):
                selector = ImportanceSampling(0.5, seed=seed)
                selector(**outlying(8, 7))
                kept[(selector(**inputs) if inputs else selector(candidates=8)).indices] += 1 / 600
        assert (kept - 0.5).abs().max() < 5 * (0.25 / 600) ** 0.5


def test_the_state_holds_the_switch() -> None:
    selector, heir = (ImportanceSampling(0.5, smoothing=0.5, seed=0) for _ in range(2))
    selector(**outlying(12, 1))
    heir.load_state_dict(selector.state_dict())
    assert heir.active
    assert heir.switch.tau == selector.switch.tau
    assert heir.switch.switched_at == [0]
    heir.reset()
    assert not heir.active
    assert heir.switch.tau is None
    assert heir.switch.switched_at == []


def test_the_host_looks_at_nothing_but_the_last_answer() -> None:
    selector = ImportanceSampling(0.5, 0.0, seed=0)
    inputs = outlying(12, 1)
    with shapes.unchecked(), HostSyncs(anywhere=True) as waits:
        for _ in range(3):
            scores = inputs["logits"].square().sum(1)
            selector.switch.update(scores, 1.0)
    assert waits.operations == ["_local_scalar_dense"] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": "entropy"},
        {"relative_score_cost": -1.0},
        {"max_weight": 0.5},
        {"probe_every": 0},
        {"smoothing": 1.0},
        {"relative_score_cost": math.nan},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImportanceSampling(**wrong)  # pyright: ignore
