"""Look-aheads change nothing, and operators that can't be differentiated as needed are noticed."""

import copy
import logging
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from litselect.scoring.meta_gradients import SGD, Adam, LookAhead, derivatives
from litselect.scoring.meta_gradients import objective as objective_module
from tests.scoring.rater_cases import CLASSES, MODELS, batch_of, estimate, gradient_of, linear_rater, window_of

DOUBLE = torch.float64


def everything(model: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {name: t.clone() for name, t in model.state_dict().items()},
        "gradients": [p.grad for p in model.parameters()],
        "flags": [(module.training, *(p.requires_grad for p in module.parameters())) for module in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global stream
        "python": random.getstate(),
    }


def assert_same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a.pop("tensors"), b.pop("tensors"), rtol=0, atol=0)
    assert a.pop("torch").equal(b.pop("torch"))
    assert a == b


@pytest.mark.parametrize("estimator", ["unroll", "adjoint", "fd"])
def test_the_model_and_the_random_streams_stay_as_they_are(estimator: Any) -> None:
    model = nn.Sequential(MODELS["batchnorm"](), nn.Dropout(0.5)).to(DOUBLE)
    model[0][2].eval()
    rater = linear_rater()
    objective, window = window_of(model, Adam(), rater, 2)
    start = copy.deepcopy(window.start)
    before = everything(model)
    LookAhead(objective, Adam(), estimator)(window)
    assert_same(before, everything(model))
    for name, values in vars(start).items():
        torch.testing.assert_close(getattr(window.start, name), values, rtol=0, atol=0)


def test_live_buffers_would_have_changed() -> None:
    """What clones are for."""
    model = MODELS["batchnorm"]().to(DOUBLE)
    before = {name: b.clone() for name, b in model.named_buffers()}
    functional_call(model, dict(model.named_parameters()), batch_of()[:1])
    assert not model.get_buffer("1.running_mean").equal(before["1.running_mean"])


def test_buffers_that_a_module_replaces_persist() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = MODELS["mlp"]()
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("average", torch.zeros(CLASSES))

        def forward(self, images: Tensor) -> Tensor:
            logits = self.net(images)
            self.seen = self.seen + 1
            self.average = 0.9 * self.average + 0.1 * logits.mean(0)  # with its graph
            return logits

    model, rater = Counting().to(DOUBLE), linear_rater()
    case = window_of(model, SGD(), rater, 2)
    for estimator in ("unroll", "adjoint"):
        end = LookAhead(case[0], SGD(), estimator)(case[1]).end  # type: ignore[arg-type]
        assert int(end.buffers["module.seen"]) == 4  # two before the window
        assert not end.buffers["module.average"].requires_grad
    assert int(model.seen) == 0


def test_masks_are_the_same_whatever_draws_them() -> None:
    """Stochastic depth by Python's or numpy's stream: each step draws the same each time it is computed."""

    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.other = MODELS["mlp"](), MODELS["mlp"]()

        def forward(self, images: Tensor) -> Tensor:
            share = np.random.rand() * random.random()  # noqa: NPY002 - the global stream
            return self.net(images) + share * self.other(images)

    rater = linear_rater()
    case = window_of(Drops().to(DOUBLE), SGD(), rater, 2)
    exact, adjoint = (estimate(estimator, case, SGD(), rater) for estimator in ("unroll", "adjoint"))
    torch.testing.assert_close(adjoint, exact)


# ---------------------------------------------------------------------- operators


class Square(torch.autograd.Function):
    """Twice differentiable, without a rule for forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


class SquareOnce(Square):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


@torch.library.custom_op("litselect_tests::square", mutates_args=())
def library_square(x: Tensor) -> Tensor:
    return x * x


library_square.register_autograd(
    lambda ctx, slope: 2 * ctx.saved_tensors[0] * slope,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


def constant_share(x: Tensor) -> Tensor:
    """A gate that is meant to be constant: backward mode stops at it, forward mode does not."""
    with torch.no_grad():
        gate = 1 / (1 + x.square())
    return gate * x


class With(nn.Module):
    """A network with an operator in it."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.head, self.operator = nn.Linear(36, 8), nn.Linear(8, CLASSES), operator

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.operator(self.first(images.flatten(1))))


@pytest.mark.parametrize(
    ("operator", "one", "two"),  # estimators that refuse, for one step and for two
    [
        (torch.tanh, [], []),
        (Square.apply, ["jvp"], []),
        (SquareOnce.apply, ["jvp", "unroll"], ["unroll", "adjoint"]),
        (library_square, ["jvp"], []),
        (constant_share, ["jvp"], []),
    ],
)
def test_auto_falls_back_where_an_operator_refuses(
    operator: Any, one: list[str], two: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rater = linear_rater()
    for steps, tried, order in ((1, one, ["jvp", "unroll", "fd"]), (2, two, ["unroll", "adjoint", "fd"])):
        caplog.clear()
        expected = order[len(tried)]
        case = window_of(With(operator).to(DOUBLE), SGD(lr=0.1), rater, steps)
        look_ahead = LookAhead(case[0], SGD(lr=0.1))
        found = gradient_of(look_ahead(case[1]), rater)
        assert look_ahead.estimator == expected
        assert caplog.messages[-1] == f'Meta-gradients are estimated by "{expected}".'
        refused = [message.split('"')[1] for message in caplog.messages if "out of the question" in message]
        assert (
            refused
            == {"jvp": [], "unroll": ["jvp"][: 2 - steps], "fd": [["jvp", "unroll"], ["unroll", "adjoint"]][steps - 1]}[
                expected
            ]
        )
        if operator is not constant_share:  # which differences see as no constant
            differences = estimate("fd", case, SGD(lr=0.1), rater)
            torch.testing.assert_close(found, differences, rtol=1e-3, atol=1e-5 * float(found.norm()))
        if expected != "fd":
            torch.testing.assert_close(found, estimate("unroll", case, SGD(lr=0.1), rater))


@pytest.mark.parametrize("operator", [Square.apply, library_square, constant_share])
def test_adjoint_falls_back_on_two_backward_passes(operator: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rater = linear_rater()
    case = window_of(With(operator).to(DOUBLE), SGD(lr=0.1), rater, 2)
    look_ahead = LookAhead(case[0], SGD(lr=0.1), "adjoint")
    for _ in range(2):
        found = gradient_of(look_ahead(case[1]), rater)
        torch.testing.assert_close(found, estimate("unroll", case, SGD(lr=0.1), rater))
    assert sum("by two backward passes" in message for message in caplog.messages) <= 1  # and remembers it


@pytest.mark.parametrize(
    ("operator", "estimator", "check"),
    [
        (library_square, "jvp", "look_ahead.require_agreement"),
        (constant_share, "jvp", "look_ahead.require_agreement"),
        (SquareOnce.apply, "unroll", "unroll.require_linear"),
        (lambda x: x / (1 + x.detach().square()), "fd", "look_ahead.require_agreement"),
    ],
)
def test_torch_alone_would_be_wrong(operator: Any, estimator: Any, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comparison with the gradient is for: torch says nothing."""
    rater, model = linear_rater(), With(operator).to(DOUBLE)
    with torch.no_grad():
        model.first.weight *= 3
    case = window_of(model, SGD(lr=0.1), rater, 1)
    exact = estimate("fd" if estimator == "unroll" else "unroll", case, SGD(lr=0.1), rater)
    with pytest.raises(NotImplementedError, match=r"must be .*but .* was found.*Use another"):
        estimate(estimator, case, SGD(lr=0.1), rater)
    monkeypatch.setattr(f"litselect.scoring.meta_gradients.{check}", lambda *_, **__: None)
    wrong = estimate(estimator, case, SGD(lr=0.1), rater)
    assert (wrong - exact).norm() > 0.1 * exact.norm()


class Again(With):
    """Computes its last layer again in the backward pass."""

    def forward(self, images: Tensor) -> Tensor:
        return checkpoint(self.head, torch.tanh(self.first(images.flatten(1))), use_reentrant=False)


def test_activation_checkpointing_is_refused_for_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    rater, state = linear_rater(), With(torch.tanh).to(DOUBLE).state_dict()

    def found(kind: type[With]) -> Tensor:
        model = kind(torch.tanh).to(DOUBLE)
        model.load_state_dict(state)
        torch.manual_seed(5)
        objective, window = window_of(model, SGD(lr=0.1), rater, 2, warm=0)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(2)  # the module's own parameters are not those that it runs on
        return gradient_of(LookAhead(objective, SGD(lr=0.1), "unroll")(window), rater)

    exact = found(With)
    with pytest.raises(RuntimeError, match=r"is under torch\.utils\.checkpoint"):
        found(Again)
    monkeypatch.setattr(objective_module, "_whole_graphs", nullcontext)
    assert (found(Again) - exact).norm() > 0.05 * exact.norm()


def test_attention_needs_the_math_kernel() -> None:
    """What the objective's choice of a kernel is for."""
    q = torch.randn(2, 1, 4, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(F.scaled_dot_product_attention(q, q, q).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match=r"derivative for .*attention.* is not implemented"):
        torch.autograd.grad(slope.sum(), q)
    rater = linear_rater(torch.float32)
    for steps in (1, 2):
        look_ahead, window = _attention(rater, steps)
        look_ahead(window)
        assert look_ahead.estimator == {1: "jvp", 2: "unroll"}[steps]


def _attention(rater: nn.Module, steps: int) -> Any:
    objective, window = window_of(MODELS["attention"](), SGD(), rater, steps, torch.float32)
    return LookAhead(objective, SGD()), window


def test_the_loss_of_a_dead_model_has_no_derivative() -> None:
    """A loss on which no parameter bears: zeros, by every estimator."""
    rater = linear_rater()
    nothing = lambda module, batch: batch[0].mean((1, 2, 3)) + 0 * sum(p.sum() for p in module.parameters())  # noqa: E731
    for estimator in ("jvp", "unroll", "fd"):
        case = window_of(MODELS["mlp"]().to(DOUBLE), SGD(), rater, 1, loss_fn=nothing)
        assert estimate(estimator, case, SGD(), rater).eq(0).all()


def test_differences_of_a_float64_model_under_a_float32_rater() -> None:
    rater = linear_rater(torch.float32)
    case = window_of(MODELS["groupnorm"]().to(DOUBLE), SGD(), linear_rater(), 2)
    window = copy.copy(case[1])
    object.__setattr__(window, "rate", lambda batch, state: rater(batch[0].float()))
    exact, differences = (estimate(e, (case[0], window), SGD(), rater) for e in ("unroll", "fd"))
    torch.testing.assert_close(differences, exact, rtol=1e-4, atol=1e-5 * float(exact.norm()))


def test_rules_of_forward_mode_are_loaded_quietly(recwarn: pytest.WarningsRecorder) -> None:
    derivatives._load_rules.cache_clear()
    rater = linear_rater()
    estimate("jvp", window_of(MODELS["batchnorm"]().to(DOUBLE), SGD(), rater, 1), SGD(), rater)
    assert not recwarn.list
