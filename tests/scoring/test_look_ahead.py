"""Meta-gradients are the derivative of the held-out loss after real steps."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring.meta_gradients import SGD, Adam, InnerOptimizer, LookAhead, LossObjective, derivatives
from tests.scoring.rater_cases import (
    CLASSES,
    MODELS,
    cross_entropy,
    estimate,
    gradient_of,
    linear_rater,
    window_of,
)

OPTIMIZERS: dict[str, InnerOptimizer] = {
    "sgd": SGD(lr=0.3),
    "momentum": SGD(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": Adam(lr=0.02, eps=1e-3),
    "adamw": Adam(lr=0.02, eps=1e-3, weight_decay=0.1, decoupled=True, eps_at="outside"),
}
DOUBLE = torch.float64


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_all_estimators_find_the_derivative_of_the_real_loss(model: str, optimizer: str, steps: int) -> None:
    rater, inner = linear_rater(), OPTIMIZERS[optimizer]
    case = window_of(MODELS[model]().to(DOUBLE), inner, rater, steps)
    exact = estimate("unroll", case, inner, rater)

    (weight,) = (p for p in rater.parameters() if p.ndim == 2)
    along = torch.randn_like(weight)
    along *= exact[: weight.numel()].sign().view_as(weight)  # not orthogonal to it
    ends: list[Tensor] = []
    with torch.no_grad():
        for side in (1e-4, -2e-4):
            weight += side * along
            ends.append(LookAhead(case[0], inner, "unroll")(case[1]).loss)
        weight += 1e-4 * along
    slope = (ends[0] - ends[1]) / 2e-4
    torch.testing.assert_close(slope, (exact[: weight.numel()].view_as(weight) * along).sum(), rtol=1e-5, atol=1e-11)

    for estimator in ("adjoint", "jvp") if steps == 1 else ("adjoint",):
        torch.testing.assert_close(estimate(estimator, case, inner, rater), exact, rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(estimate("fd", case, inner, rater), exact, rtol=1e-3, atol=1e-5 * float(exact.norm()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_float32_has_the_digits_that_the_specification_claims(model: str, optimizer: str) -> None:
    rater, inner = linear_rater(torch.float32), OPTIMIZERS[optimizer]
    case = window_of(MODELS[model](), inner, rater, 2, torch.float32)
    exact, adjoint, differences = (estimate(e, case, inner, rater) for e in ("unroll", "adjoint", "fd"))
    assert (adjoint - exact).norm() <= 2e-5 * exact.norm()
    assert F.cosine_similarity(differences, exact, dim=0) > 0.99


def test_differences_do_not_follow_what_has_no_gradient() -> None:
    """Adam's update has a slope of 1 / eps there, beside which all else would be lost in rounding."""
    rater, inner = linear_rater(torch.float32), Adam(lr=0.01)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    with torch.no_grad():
        model[1].weight[:2], model[1].bias[:2] = 1.0, -100  # held-out examples alone are beyond it
    objective, window = window_of(model, inner, rater, 1, torch.float32)
    window.heldout[0].add_(5)
    exact, differences = (estimate(estimator, (objective, window), inner, rater) for estimator in ("unroll", "fd"))
    assert F.cosine_similarity(differences, exact, dim=0) > 0.99


@pytest.mark.parametrize("estimator", ["unroll", "adjoint", "fd"])
def test_the_end_is_where_training_would_have_arrived(estimator: Any) -> None:
    rater, inner = linear_rater(), OPTIMIZERS["momentum"]
    model = MODELS["batchnorm"]().to(DOUBLE)
    objective, window = window_of(model, inner, rater, 3, warm=0)
    live = MODELS["batchnorm"]().to(DOUBLE)
    live.load_state_dict(model.state_dict())
    end = LookAhead(objective, inner, estimator)(window).end
    optimizer = torch.optim.SGD(live.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for batch in window.batches:
        optimizer.zero_grad()
        (rater(batch[0]).softmax(0).detach() * cross_entropy(live, batch)).sum().backward()
        optimizer.step()
    assert end.steps == 3
    torch.testing.assert_close(end.parameters, [p.detach() for p in live.parameters()])
    buffers = {f"module.{name}": buffer for name, buffer in live.named_buffers()}
    torch.testing.assert_close(end.buffers, buffers)
    assert int(buffers["module.1.num_batches_tracked"]) == 3


def test_one_step_has_no_second_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """For T = 1 no Hessian-vector product is asked for; for T = 2, one."""
    asked: list[bool] = []

    def noted(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return derivatives.forward_mode(*arguments)

    monkeypatch.setattr("litselect.scoring.meta_gradients.look_ahead.forward_mode", noted)
    rater = linear_rater()
    for steps, hessians in ((1, [False]), (2, [True, False])):
        asked.clear()
        estimate("adjoint", window_of(MODELS["mlp"]().to(DOUBLE), SGD(), rater, steps), SGD(), rater)
        assert asked[1:] == hessians  # the first is the comparison with the gradient


def test_an_influence_is_the_alignment_of_gradients() -> None:
    """With SGD and T = 1: minus the learning rate times the product of the example's gradient and the held-out one."""
    rater = linear_rater()
    objective, window = window_of(MODELS["groupnorm"]().to(DOUBLE), SGD(lr=0.3), rater, 1)
    found = LookAhead(objective, SGD(lr=0.3), "jvp")(window)
    leaves = [p.clone().requires_grad_() for p in found.end.parameters]
    outer = torch.autograd.grad(objective.outer(leaves, found.end.cloned_buffers(), window.heldout), leaves)
    leaves = [p.clone().requires_grad_() for p in window.start.parameters]
    losses = objective.losses(leaves, window.start.cloned_buffers(), window.batches[0])
    for loss, influence in zip(losses, found.influences[0], strict=True):
        own = torch.autograd.grad(loss, leaves, retain_graph=True)
        aligned = sum((a * b).sum() for a, b in zip(own, outer, strict=True))
        torch.testing.assert_close(influence, -0.3 * aligned)


@pytest.mark.parametrize("estimator", ["unroll", "adjoint", "fd"])
def test_frozen_tied_and_unused_parameters(estimator: Any) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.tied, self.head = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, CLASSES)
            self.tied.weight = self.first.weight
            self.head.bias.requires_grad_(False)
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.tied(self.first(images.flatten(1)).tanh()).tanh())

    rater, model = linear_rater(), Odd().to(DOUBLE)
    case = window_of(model, Adam(lr=0.01, eps=1e-3), rater, 2)
    assert len(case[1].start.parameters) == 5
    found = LookAhead(case[0], Adam(lr=0.01, eps=1e-3), estimator)(case[1])
    assert found.end.buffers["module.head.bias"].equal(model.head.bias)
    unused = case[0].names.index("module.unused")
    assert found.end.parameters[unused].equal(torch.ones(2, dtype=DOUBLE))
    exact = estimate("unroll", case, Adam(lr=0.01, eps=1e-3), rater)
    torch.testing.assert_close(gradient_of(found, rater), exact, rtol=1e-4, atol=1e-6 * float(exact.norm()))


def test_under_bf16_the_meta_state_is_float32() -> None:
    rater = linear_rater(torch.float32)
    inner = SGD(lr=0.1, momentum=0.9)
    for steps, estimator in ((1, "jvp"), (2, "unroll"), (2, "adjoint")):
        seen: list[torch.dtype] = []
        model = MODELS["mlp"]()
        model[1].register_forward_hook(lambda *arguments, seen=seen: seen.append(arguments[2].dtype))
        objective, window = window_of(model, inner, rater, steps, torch.float32, precision="bf16")
        look_ahead = LookAhead(objective, inner, estimator)
        found = look_ahead(window)
        assert set(seen) == {torch.bfloat16}
        assert look_ahead._agree  # rounding is told from a missing rule
        state = [*found.end.parameters, *found.end.moments["momentum_buffer"], *found.influences, *found.weights]
        assert {tensor.dtype for tensor in state} == {torch.float32}
        full = estimate("unroll", (LossObjective(model, cross_entropy), window), inner, rater)
        assert F.cosine_similarity(gradient_of(found, rater), full, dim=0) > 0.98
    with pytest.raises(ValueError, match=r"bfloat16 leaves nothing.*Use precision=None"):
        LookAhead(objective, inner, "fd")(window)


def test_what_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    rater = linear_rater()
    case = window_of(MODELS["mlp"]().to(DOUBLE), SGD(), rater, 2)
    with pytest.raises(ValueError, match=r'exact for one inner step only, but a window of 2 .*Use estimator="adjoint"'):
        LookAhead(case[0], SGD(), "jvp")(case[1])
    with pytest.raises(ValueError, match=r"one of auto, unroll.*'exact'.*Use"):
        LookAhead(case[0], SGD(), "exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(6,\), but returned \(\).*reduction='none'"):
        estimate("auto", window_of(MODELS["mlp"]().to(DOUBLE), SGD(), rater, 1, loss_fn=mean, warm=0), SGD(), rater)
    for module in (nn.Linear(2, 2).half(), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(ValueError, match=r"require gradients, in float32 or float64, but Linear has .*Keep"):
            LossObjective(module, cross_entropy)
    with pytest.raises(ValueError, match=r"precision=None or \"bf16\", but got '16'. Use"):
        LossObjective(MODELS["mlp"](), cross_entropy, precision="16")  # type: ignore[arg-type]


def mean(module: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(module, batch).mean()


def test_auto_takes_the_cheapest_exact_one_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rater = linear_rater()
    for steps, expected in ((1, "jvp"), (2, "unroll")):
        objective, window = window_of(MODELS["mlp"]().to(DOUBLE), SGD(), rater, steps)
        look_ahead = LookAhead(objective, SGD())
        assert look_ahead.estimator == "auto"
        look_ahead(window)
        assert look_ahead.estimator == expected
        assert caplog.messages[-1] == f'Meta-gradients are estimated by "{expected}".'
