"""Weights on the losses of a step that knows nothing of them."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring import CaptureError, LossObserver, LossWeights
from tests.scoring.loss_cases import CASES, CLASS_WEIGHT, Case, N, real, some_ignored, unit, whole

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
WEIGHTS = torch.tensor([0.5, 0.0, 2.0, 1.5, 3.0, 0.25])


def by_hand(case: Case, reduction: str, rows: dict[str, Tensor], weights: Tensor) -> Tensor:
    """The slow reference: elements times weights over what the plain reduction divides by."""
    elements = case("none", rows).reshape(N, -1)
    if case.call is F.ctc_loss and reduction == "mean":
        return (elements[:, 0] * weights / rows["target_lengths"]).mean()
    divisor = (elements.sum() / case(reduction, rows)).detach()
    return (elements * weights[:, None]).sum() / divisor


def gradients(case: Case, total: Callable[[dict[str, Tensor]], Tensor]) -> tuple[Tensor, Tensor]:
    """Value and gradient with respect to the first argument."""
    first = next(iter(case.rows))
    leaf = case.rows[first].clone().requires_grad_()
    value = total({**case.rows, first: leaf})
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@cases
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_are_those_of_weighted_losses(case: Case, reduction: str) -> None:
    def weighted(rows: dict[str, Tensor]) -> Tensor:
        with LossWeights(WEIGHTS) as mode:
            total = case(reduction, rows)
        assert mode.applied == 1
        return total

    got = gradients(case, weighted)
    torch.testing.assert_close(got, gradients(case, lambda rows: by_hand(case, reduction, rows, WEIGHTS)))
    with pytest.raises(AssertionError):  # the weights matter
        torch.testing.assert_close(got, gradients(case, lambda rows: case(reduction, rows)))


@cases
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_unit_weights_are_none(case: Case, reduction: str) -> None:
    def weighted(rows: dict[str, Tensor]) -> Tensor:
        with LossWeights(torch.ones(N)):
            return case(reduction, rows).mean()

    torch.testing.assert_close(gradients(case, weighted), gradients(case, lambda rows: case(reduction, rows).mean()))


def test_unit_weights_give_the_very_gradient_of_plain_cross_entropy() -> None:
    """Bit by bit; the value is summed in another order."""
    case = next(case for case in CASES if case.name == "cross_entropy")

    def weighted(rows: dict[str, Tensor]) -> Tensor:
        with LossWeights(torch.ones(N)):
            return case("mean", rows)

    assert torch.equal(gradients(case, weighted)[1], gradients(case, lambda rows: case("mean", rows))[1])


def test_batchmean() -> None:
    logits, target = real(3).log_softmax(1).requires_grad_(), real(3).softmax(1)
    with LossWeights(WEIGHTS):
        total = F.kl_div(logits, target, reduction="batchmean")
    expected = (F.kl_div(logits, target, reduction="none").sum(1) * WEIGHTS).mean()
    torch.testing.assert_close(total, expected)


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="the weight argument is as new")
def test_the_mean_of_a_weighted_squared_error() -> None:
    x, y, w = real(3).requires_grad_(), real(3), unit(3)
    with LossWeights(WEIGHTS):
        total = F.mse_loss(x, y, weight=w)
    torch.testing.assert_close(total, ((x - y) ** 2 * w * WEIGHTS[:, None]).sum() / w.sum())


# ---------------------------------------------------------------------- what a step makes of unreduced losses

X, Y = real(5, 4), whole(4, 5)
LOGITS = X.transpose(1, 2)
TOKENS = F.cross_entropy(LOGITS, Y, reduction="none")
MASK = torch.rand(N, 5, generator=torch.Generator().manual_seed(1)) > 0.4
WIDE = WEIGHTS[:, None]


def focal(losses: Tensor) -> Tensor:
    return (1 - torch.exp(-losses)) ** 2 * losses


STEPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "mean": (Tensor.mean, lambda losses: (losses * WIDE).mean()),
    "sum": (torch.sum, lambda losses: (losses * WIDE).sum()),
    "mean of means": (lambda losses: losses.mean(1).mean(), lambda losses: (losses * WIDE).mean()),
    "positions first": (lambda losses: losses.mean(dim=0).sum(), lambda losses: (losses * WIDE).mean(0).sum()),
    "focal": (lambda losses: focal(losses).mean(), lambda losses: (focal(losses) * WIDE).mean()),
    "flattened": (lambda losses: focal(losses.flatten()).mean(), lambda losses: (focal(losses) * WIDE).mean()),
    "mask": (
        lambda losses: (losses * MASK).sum() / MASK.sum(),
        lambda losses: (losses * MASK * WIDE).sum() / MASK.sum(),
    ),
    "boolean index": (lambda losses: losses[MASK].mean(), lambda losses: (losses * WIDE)[MASK].mean()),
    "masked select": (
        lambda losses: losses.masked_select(MASK).sum(),
        lambda losses: (losses * WIDE).masked_select(MASK).sum(),
    ),
    "without the first token": (lambda losses: losses[:, 1:].mean(), lambda losses: (losses * WIDE)[:, 1:].mean()),
    "stack": (
        lambda losses: torch.stack([losses, 2 * losses]).mean(),
        lambda losses: torch.stack([losses * WIDE, 2 * losses * WIDE]).mean(),
    ),
    "in a loop": (lambda losses: sum(row.mean() for row in losses) / N, lambda losses: (losses * WIDE).mean()),
    "transposed": (lambda losses: losses.T.mean(), lambda losses: (losses * WIDE).mean()),
    "two parts": (
        lambda losses: losses.mean() + 0.3 * losses.sum(),
        lambda x: (x * WIDE).mean() + 0.3 * (x * WIDE).sum(),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_unreduced_losses_are_weighted_where_they_are_reduced(name: str) -> None:
    step, expected = STEPS[name]
    leaf = LOGITS.clone().requires_grad_()
    with LossWeights(WEIGHTS):
        total = step(F.cross_entropy(leaf, Y, reduction="none"))
    reference = expected(F.cross_entropy(leaf, Y, reduction="none"))
    torch.testing.assert_close(total, reference)
    torch.testing.assert_close(torch.autograd.grad(total, leaf), torch.autograd.grad(reference, leaf))


@pytest.mark.parametrize("name", STEPS)
def test_losses_are_overheard_without_their_weights(name: str) -> None:
    step, _ = STEPS[name]
    leaf, heard = LOGITS.clone().requires_grad_(), list[Tensor]()
    weighted = WEIGHTS > 0  # a row that goes nowhere says nothing of its loss
    for weights in (None, WEIGHTS):
        observer = LossObserver(N, spare_metrics=True, weights=weights)
        with LossWeights(torch.ones(N) if weights is None else weights, spare_metrics=True):
            observer.watch(lambda: step(F.cross_entropy(leaf, Y, reduction="none")))
        assert observer.scores is not None
        heard.append(observer.scores.losses[weighted])
    torch.testing.assert_close(heard[1], heard[0])
    assert heard[0].min() > 0


@pytest.mark.parametrize("metric", [True, False])
def test_what_is_written_in_place_is_written_once(metric: bool) -> None:
    leaf, classes = LOGITS.clone().requires_grad_(), Y[:, 0]
    per_class, whole_batch = torch.zeros(N), torch.zeros(())  # as many classes as rows: no sign that they are rows
    with LossWeights(WEIGHTS, spare_metrics=True):
        losses = F.cross_entropy(leaf, Y, reduction="none").mean(1)
        added = losses.detach() if metric else losses
        per_class = per_class.index_add_(0, classes, added)
        whole_batch += added.sum()
    expected = TOKENS.mean(1) * (1 if metric else WEIGHTS)
    torch.testing.assert_close(per_class.detach(), torch.zeros(N).index_add_(0, classes, expected))
    torch.testing.assert_close(whole_batch.detach(), expected.sum())


@pytest.mark.parametrize("index", [slice(None), torch.arange(N).flip(0), ...], ids=["slice", "places", "all"])
def test_losses_that_are_written_into_another_tensor_keep_their_weights(index: Any) -> None:
    leaf, kept = LOGITS.clone().requires_grad_(), torch.zeros(N)
    with LossWeights(WEIGHTS, spare_metrics=True):
        kept[index] = F.cross_entropy(leaf, Y, reduction="none").mean(1)
        total = (2 * kept).mean()
    torch.testing.assert_close(total.detach(), 2 * (TOKENS.mean(1) * WEIGHTS).mean())


def test_several_losses_and_flattened_tokens() -> None:
    z, w = real(3).requires_grad_(), unit(3)
    target, logits = some_ignored(Y), X.reshape(-1, 4).requires_grad_()
    with LossWeights(WEIGHTS) as mode:
        total = F.cross_entropy(logits, target.view(-1), weight=CLASS_WEIGHT) + 0.3 * F.mse_loss(z, w)
    assert mode.applied == 2
    elements = F.cross_entropy(LOGITS, target, weight=CLASS_WEIGHT, reduction="none")
    divisor = (CLASS_WEIGHT[target.clamp_min(0)] * (target >= 0)).sum()
    torch.testing.assert_close(total, (elements * WIDE).sum() / divisor + 0.3 * ((z - w) ** 2 * WIDE).mean())


def test_a_loss_that_is_not_one_an_example_is_left_alone() -> None:
    x, y = torch.rand(7, requires_grad=True), torch.rand(7)
    with LossWeights(WEIGHTS) as mode:
        assert torch.equal(F.mse_loss(x, y), ((x - y) ** 2).mean())
    assert mode.applied == 0


def test_one_row() -> None:
    logits = LOGITS.clone().requires_grad_()
    with LossWeights(torch.tensor([2.0])):
        assert F.cross_entropy(logits[:1, :, 0], Y[:1, 0]) == 2 * TOKENS[0, 0]
        torch.testing.assert_close(F.cross_entropy(logits[:1], Y[:1], reduction="none").mean(), 2 * TOKENS[0].mean())


def test_a_metric_is_not_weighted() -> None:
    logits = LOGITS.clone().requires_grad_()
    plain = F.cross_entropy(LOGITS, Y)
    with LossWeights(WEIGHTS, spare_metrics=True) as mode:
        assert torch.equal(F.cross_entropy(logits.detach(), Y), plain)
        with torch.no_grad():
            assert torch.equal(F.cross_entropy(logits, Y), plain)
        assert mode.applied == 0
        torch.testing.assert_close(F.cross_entropy(logits, Y), (TOKENS * WIDE).mean())


def test_weights_of_all_subsets_give_the_full_gradient() -> None:
    """Every subset of two rows, drawn with known probability: weights k / (N inclusion) are unbiased."""
    network, k = nn.Linear(4, 4), 2
    x, y = real(4), whole(4)
    subsets = list(itertools.combinations(range(N), k))
    probability = torch.rand(len(subsets), generator=torch.Generator().manual_seed(2))
    probability /= probability.sum()
    inclusion = torch.zeros(N)
    for subset, p in zip(subsets, probability, strict=True):
        inclusion[list(subset)] += p
    expectation = torch.zeros_like(network.weight)
    for subset, p in zip(subsets, probability, strict=True):
        rows = list(subset)
        with LossWeights(k / (N * inclusion[rows])):
            loss = F.cross_entropy(network(x[rows]), y[rows])
        expectation += p * torch.autograd.grad(loss, network.weight)[0]
    full = torch.autograd.grad(F.cross_entropy(network(x), y), network.weight)[0]
    torch.testing.assert_close(expectation, full)


# ---------------------------------------------------------------------- what weights must not change, or can't reach


@pytest.mark.parametrize(
    "pick", [lambda v: v.topk(2)[0], lambda v: v.sort(descending=True).values[:2], lambda v: v.max(0)[0]]
)
def test_the_step_picks_hard_examples_by_their_losses(pick: Callable[[Tensor], Tensor]) -> None:
    """Not by their losses times their weights."""
    losses = torch.tensor([0.1, 0.3, 0.7, 1.3])
    weights = torch.tensor([9.0, 2.0, 0.5, 3.0])
    inputs = losses.clone().requires_grad_()
    with LossWeights(weights):
        total = pick(F.l1_loss(inputs, torch.zeros(4), reduction="none")).sum()
    picked = pick(losses)
    expected = torch.where(losses >= picked.min(), weights, 0.0)
    assert torch.equal(torch.autograd.grad(total, inputs)[0], expected)


def test_sums_of_halves_do_not_overflow() -> None:
    inputs, targets = torch.zeros(8, 40_000, dtype=torch.float16), torch.ones(8, 40_000, dtype=torch.float16)
    with LossWeights(torch.ones(8)):
        assert F.mse_loss(inputs, targets) == 1
    observer = LossObserver(8)
    with torch.enable_grad():
        observer.watch(lambda: F.mse_loss(inputs.requires_grad_(), targets))
    assert observer.scores is not None
    assert torch.equal(observer.scores.losses, torch.ones(8))


def test_classes_may_be_bytes() -> None:
    logits, classes, weight = torch.randn(6, 3), torch.arange(6) % 3, torch.tensor([1.0, 2.0, 3.0])
    with LossWeights(torch.ones(6)):
        found = F.cross_entropy(logits, classes.byte(), weight)
    torch.testing.assert_close(found, F.cross_entropy(logits, classes, weight))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_loss_within_a_checkpoint_takes_no_weights(reentrant: bool) -> None:
    net, x, y = nn.Linear(4, 3), torch.randn(6, 4, requires_grad=True), torch.arange(6) % 3

    def step(call: Callable[..., Tensor]) -> Tensor:
        return call(lambda x: F.cross_entropy(net(x), y), x)

    def within(function: Any, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(function, x, use_reentrant=reentrant)  # pyright: ignore

    with LossWeights(WEIGHTS, spare_metrics=True) as mode:
        if reentrant:
            step(within)
            assert mode.applied == 0, "which whoever weighs is to notice"
        else:
            with pytest.raises(CaptureError, match=r"cross_entropy is called within an activation checkpoint"):
                step(within)
    with torch.autograd.graph.save_on_cpu(), LossWeights(WEIGHTS, spare_metrics=True) as mode:
        step(lambda function, x: function(x))
    assert mode.applied == 1, "other hooks compute nothing again"


def test_a_penalty_on_parameters_is_not_weighted() -> None:
    """Though it has as many rows as there are weights."""
    x, y, table = real(4), whole(4), nn.Parameter(real(3))
    penalty = F.mse_loss(table, torch.zeros_like(table), reduction="sum")
    with LossWeights(WEIGHTS) as mode:
        total = F.cross_entropy(x, y) + F.mse_loss(table, torch.zeros_like(table), reduction="sum")
    assert mode.applied == 1
    torch.testing.assert_close(total, (WEIGHTS * F.cross_entropy(x, y, reduction="none")).mean() + penalty)
