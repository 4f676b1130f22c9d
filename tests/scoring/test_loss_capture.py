"""Losses per example out of steps that know nothing of them."""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring import CaptureError, LossCapture, ScoringPass
from litselect.scoring.loss_call import LOSSES
from litselect.scoring.loss_observer import LossObserver
from tests.scoring.loss_cases import CASES, CLASS_WEIGHT, Case, N, alone, real, some_ignored, unit, whole

X, Y, Z, W = real(4), whole(4), real(3), unit(3)
CE, MSE = F.cross_entropy(X, Y, reduction="none"), F.mse_loss(Z, W, reduction="none").mean(1)
pytestmark = pytest.mark.filterwarnings(
    "ignore:reduction. 'mean' divides the total loss:UserWarning",  # torch's advice about KL
    "ignore:Converting a tensor with requires_grad:UserWarning",  # about float(loss), in training too
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",  # dynamo looks at it
)
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


class OnGraphs(LossObserver):
    """Where a test's tensors have no graph, the losses begin one, as those of a network would."""

    def _as_reduced(self, value: Tensor, own: Tensor, *, is_sum: bool) -> Tensor:
        value = value if value.requires_grad else value.clone().requires_grad_()
        return super()._as_reduced(value, own, is_sum=is_sum)

    def _as_elements(self, elements: Tensor) -> Tensor:
        return super()._as_elements(elements if elements.requires_grad else elements.clone().requires_grad_())


def capture(step: Callable[[], Any], n: int = N) -> Tensor:
    """What the scoring pass captures, which the training pass must overhear as well."""
    losses = LossCapture(n).run(step)
    observer = OnGraphs(n)
    observer.watch(step)
    assert observer.scores is not None
    torch.testing.assert_close(observer.scores.losses, losses, equal_nan=True)
    assert losses is not None
    assert losses.dtype is torch.float32
    assert losses.shape == (n,)
    assert not losses.requires_grad
    return losses


def close(a: Tensor, b: Tensor, **tolerance: float) -> None:
    torch.testing.assert_close(a, b.detach().float(), **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


# ---------------------------------------------------------------------- every loss


def test_every_loss_has_a_case() -> None:
    assert {case.call for case in CASES} == LOSSES


@cases
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_is_that_of_the_example_alone(case: Case, reduction: str) -> None:
    close(capture(lambda: case(reduction)), alone(case, reduction))


@cases
def test_own_reductions_of_unreduced_losses(case: Case) -> None:
    rows = case("none").reshape(N, -1)
    close(capture(lambda: case("none").mean()), rows.mean(1))
    close(capture(lambda: torch.sum(case("none"))), rows.sum(1))
    close(
        capture(lambda: case("none").flatten(1).mean(1).mean() if rows.shape[1] > 1 else case("none").mean()),
        rows.mean(1),
    )


@pytest.mark.parametrize("case", [case for case in CASES if case.module], ids=lambda case: case.name)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_modules(case: Case, reduction: str) -> None:
    close(capture(lambda: case.through_module(reduction)), alone(case, reduction))


@cases
def test_the_step_sees_the_plain_value(case: Case) -> None:
    for reduction in ("mean", "sum", "none"):
        seen = []
        capture(lambda r=reduction, seen=seen: [seen.append(case(r)), seen[-1].mean()][1])
        for value in seen:  # scored and trained
            assert torch.equal(value.detach(), case(reduction))


@pytest.mark.parametrize("flattened", [False, True])
def test_batchmean(flattened: bool) -> None:
    logits, target = real(5, 3).log_softmax(2), real(5, 3).softmax(2)
    if flattened:
        step = lambda: F.kl_div(logits.flatten(0, 1), target.flatten(0, 1), reduction="batchmean")  # noqa: E731
        expected = [F.kl_div(logits[i], target[i], reduction="batchmean") for i in range(N)]
    else:
        step = lambda: F.kl_div(logits, target, reduction="batchmean")  # noqa: E731
        expected = [F.kl_div(logits[[i]], target[[i]], reduction="batchmean") for i in range(N)]
    close(capture(step), torch.stack(expected))


@pytest.mark.parametrize(
    ("legacy", "reduction"),
    [
        ({"size_average": False}, "sum"),
        ({"size_average": True}, "mean"),
        ({"reduce": False}, "none"),
        ({"reduce": True, "size_average": False}, "sum"),
    ],
)
def test_deprecated_arguments(legacy: dict[str, bool], reduction: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        losses = capture(lambda: F.cross_entropy(X, Y, **legacy).mean())
    close(losses, CE)
    assert reduction in ("sum", "mean", "none")


# ---------------------------------------------------------------------- what a step makes of them

mixed = CE + 0.3 * MSE


def in_place() -> Tensor:
    loss = F.cross_entropy(X, Y)
    loss += 0.3 * F.mse_loss(Z, W)
    return loss


def from_zero() -> Tensor:
    total = torch.zeros(())
    for part in (F.cross_entropy(X, Y), 0.3 * F.mse_loss(Z, W)):
        total += part
    return total


def asks_for_numbers() -> Tensor:
    loss = F.cross_entropy(X, Y)
    assert loss > 0
    assert loss.item() == float(loss) == pytest.approx(CE.mean().item())
    assert not loss.isnan().any()
    return loss


def focal() -> Tensor:
    loss = F.cross_entropy(X, Y, reduction="none")
    return ((1 - torch.exp(-loss)) ** 2 * loss).mean()


def with_a_metric() -> Tensor:
    loss = F.cross_entropy(X, Y)
    F.mse_loss(Z, W)  # logged, say
    torch.stack([F.l1_loss(Z, W), loss.detach()]).mean()
    return loss


def own_sum() -> Tensor:
    losses = F.cross_entropy(X, Y, reduction="none")
    return losses.sum() / len(losses) + F.mse_loss(Z, W)


def sum_in_place() -> Tensor:
    loss = F.cross_entropy(X, Y, reduction="sum")
    loss /= N
    return loss


def divided_twice() -> Tensor:
    loss = F.cross_entropy(X, Y, reduction="sum")
    torch.exp(loss / N)  # logged, say
    return (loss + F.mse_loss(Z, W, reduction="sum")) / N


def reduced_twice() -> Tensor:
    losses = F.cross_entropy(X, Y, reduction="none")
    losses.mean()
    torch.exp(losses.sum() / N)
    return (losses * losses.detach()).mean(0) + 0.5 * losses.mean() + losses.sum() / N


def square() -> Tensor:
    return F.mse_loss(SIMILARITY, torch.zeros(N, N), reduction="none")


MASK = torch.tensor([[1.0, 0, 1], [1, 1, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0]])
SQUARES = (Z - W) ** 2
TABLE = torch.nn.Parameter(torch.ones(2 * N, 3))
PARAMETER = nn.Parameter(torch.ones(5))
SIMILARITY = X @ X.roll(1, 0).T


STEPS: dict[str, tuple[Callable[[], Any], Tensor]] = {
    "weighted sum": (lambda: F.cross_entropy(X, Y) + 0.3 * F.mse_loss(Z, W), mixed),
    "in place": (in_place, mixed),
    "from zero": (from_zero, mixed),
    "built-in sum": (lambda: sum([F.cross_entropy(X, Y), 0.3 * F.mse_loss(Z, W)]), mixed),
    "stack of a list": (lambda: torch.stack([F.cross_entropy(X, Y), F.mse_loss(Z, W)]).mean(), (CE + MSE) / 2),
    "cat": (lambda: torch.cat([F.cross_entropy(X, Y)[None], F.mse_loss(Z, W)[None]]).sum(), CE + MSE),
    "numbers asked for": (asks_for_numbers, CE),
    "accumulation style": (lambda: F.cross_entropy(X, Y) / 4, CE / 4),
    "negated": (lambda: -F.cross_entropy(X, Y), -CE),
    "dict": (lambda: {"loss": F.cross_entropy(X, Y), "other": 1}, CE),
    "L2 term": (lambda: F.cross_entropy(X, Y) + 0.1 * (PARAMETER**2).sum(), CE),
    "learned weight": (lambda: F.cross_entropy(X, Y) * (2 * PARAMETER[0]) + PARAMETER[1], 2 * CE),
    "metric": (with_a_metric, CE),
    "focal": (focal, (1 - torch.exp(-CE)) ** 2 * CE),
    "mask": (lambda: (F.mse_loss(Z, W, reduction="none") * MASK).mean(), (SQUARES * MASK).mean(1)),
    "mask and count": (
        lambda: (F.mse_loss(Z, W, reduction="none") * MASK).sum() / MASK.sum(),
        (SQUARES * MASK).sum(1) * N / MASK.sum(),
    ),
    "boolean index": (
        lambda: F.mse_loss(Z, W, reduction="none")[MASK.bool()].mean(),
        (SQUARES * MASK).sum(1) * N / MASK.sum(),
    ),
    "rows in a loop": (lambda: sum(row.mean() for row in F.mse_loss(Z, W, reduction="none")) / N, MSE),
    "positions first": (lambda: F.mse_loss(Z, W, reduction="none").mean(0).mean(), MSE),
    "square, positions first": (lambda: square().mean(0).mean(), (SIMILARITY**2).mean(1)),
    "square, transposed": (lambda: square().T.mean(), (SIMILARITY**2).mean(1)),
    "sum over n": (lambda: F.cross_entropy(X, Y, reduction="sum") / N + F.mse_loss(Z, W), CE + MSE),
    "sum over a count": (
        lambda: F.cross_entropy(X, Y, reduction="sum") / torch.tensor(N) + F.mse_loss(Z, W),
        CE + MSE,
    ),
    "own sum over len": (own_sum, CE + MSE),
    "sum in place over n": (sum_in_place, CE),
    "sum over n twice": (divided_twice, CE + 3 * MSE),
    "reduced twice": (reduced_twice, CE**2 + 1.5 * CE),
    "sum times one over n": (lambda: F.cross_entropy(X, Y, reduction="sum") * (1 / N) + F.mse_loss(Z, W), CE + MSE),
    "a tenth of a sum": (lambda: 0.1 * F.cross_entropy(X, Y, reduction="sum") + F.mse_loss(Z, W), 0.1 * CE + MSE),
    "sum times minus one over n": (
        lambda: -(F.cross_entropy(X, Y, reduction="sum") * (-1 / N)) + F.mse_loss(Z, W),
        CE + MSE,
    ),
    "penalty on parameters": (lambda: F.cross_entropy(X, Y) + F.mse_loss(TABLE, TABLE + 1, reduction="sum"), CE),
    "penalty on parameters, unreduced": (
        lambda: F.cross_entropy(X, Y) + F.l1_loss(TABLE * 0, TABLE, reduction="none").sum(),
        CE,
    ),
    "mask and count, a number": (
        lambda: (F.mse_loss(Z, W, reduction="none") * MASK).sum() / MASK.sum().item() + F.cross_entropy(X, Y),
        (SQUARES * MASK).sum(1) * N / MASK.sum() + CE,
    ),
    "half a sum": (lambda: F.cross_entropy(X, Y, reduction="sum") / 2 + F.mse_loss(Z, W), CE / 2 + MSE),
    "cat of rows": (
        lambda: torch.cat([F.cross_entropy(X, Y, reduction="none"), F.mse_loss(Z, W, reduction="none").mean(1)]).mean(),
        (CE + MSE) / 2,
    ),
    "stack of rows": (
        lambda: (
            torch.stack([F.cross_entropy(X, Y, reduction="none"), F.l1_loss(X[:, 0], X[:, 1], reduction="none")])
            .mean(1)
            .sum()
        ),
        CE + (X[:, 0] - X[:, 1]).abs(),
    ),
    "sum": (lambda: F.cross_entropy(X, Y, reduction="sum") + F.mse_loss(Z, W), CE + MSE),
    "class-weighted by hand": (
        lambda: (F.cross_entropy(X, Y, reduction="none") * CLASS_WEIGHT[Y]).sum() / CLASS_WEIGHT[Y].sum(),
        CE * CLASS_WEIGHT[Y] * N / CLASS_WEIGHT[Y].sum(),
    ),
    "bfloat16": (lambda: F.cross_entropy(X.bfloat16(), Y), F.cross_entropy(X.bfloat16(), Y, reduction="none")),
    "float64": (lambda: F.cross_entropy(X.double(), Y), CE),
}


def test_two_losses_of_two_rows_are_not_taken_for_rows() -> None:
    parts = [lambda scale=scale: F.cross_entropy(scale * X[:2], Y[:2], reduction="none") for scale in (1, 3)]
    close(capture(lambda: torch.stack([part() for part in parts]).mean(), 2), (parts[0]() + parts[1]()) / 2)


@pytest.mark.parametrize("name", STEPS)
def test_what_the_step_makes_of_its_losses(name: str) -> None:
    step, expected = STEPS[name]
    loose = {"rtol": 1e-2, "atol": 1e-3} if name == "bfloat16" else {}
    close(capture(step), expected, **loose)


@pytest.mark.parametrize("ignored", [False, True])
def test_tokens_flattened_batch_first(ignored: bool) -> None:
    logits, target = real(7, 4), whole(4, 7)
    target = some_ignored(target) if ignored else target
    expected = torch.stack([F.cross_entropy(logits[i], target[i]) for i in range(N)])
    close(capture(lambda: F.cross_entropy(logits.view(-1, 4), target.view(-1))), expected)
    close(capture(lambda: F.cross_entropy(logits.transpose(1, 2), target)), expected)


def test_an_example_that_is_ignored_altogether_has_no_loss() -> None:
    target = Y.clone()
    target[2] = -100
    losses = capture(lambda: F.cross_entropy(X, target))
    assert losses[2] == 0
    assert torch.equal(losses[[0, 1, 3]], CE[[0, 1, 3]])


def test_autocast() -> None:
    network = nn.Linear(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = torch.cat([F.cross_entropy(network(X[[i]]), Y[[i]] % 3)[None] for i in range(N)])
        losses = capture(lambda: F.cross_entropy(network(X), Y % 3))
    close(losses, expected, rtol=1e-2, atol=1e-2)


def test_no_graph_of_the_network_is_built() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(3, 3)
    hidden = []

    def step() -> Tensor:
        loss = F.cross_entropy(first(X), Y)
        hidden.append(second(Z))  # after a loss that has a graph
        return loss + F.mse_loss(hidden[0], W)

    capture(step)
    assert not hidden[0].requires_grad


def test_parameters_may_be_changed_in_place_after_a_loss() -> None:
    ours, theirs = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)

    def step() -> Tensor:
        loss = F.cross_entropy(X, Y)
        with torch.no_grad():
            ours.weight.clamp_(-1, 1)
            theirs.weight.mul_(0.9).add_(ours.weight, alpha=0.1)
        return loss

    close(capture(step), CE)
    assert theirs.weight.is_leaf
    copy.deepcopy(theirs)


def test_a_batch_of_one() -> None:
    step = lambda: F.cross_entropy(X[:1], Y[:1]) + F.mse_loss(Z[0].mean(), W[0].mean())  # noqa: E731
    close(capture(step, 1), (CE[0] + (Z[0].mean() - W[0].mean()) ** 2)[None])


@pytest.mark.parametrize("backward", [lambda loss: loss.backward(), lambda loss: torch.Tensor.backward(loss)])
def test_backward_ends_the_pass(backward: Any) -> None:
    after = []

    def step() -> None:
        try:
            backward(F.cross_entropy(X, Y) * 2)
        except Exception:  # no step swallows the end
            after.append("swallowed")
        after.append("went on")

    close(capture(step), 2 * CE)
    assert after == ["went on"]  # when it was trained


# ---------------------------------------------------------------------- what can't be captured

BY_HAND: dict[str, Callable[[], Any]] = {
    "log-softmax": lambda: -X.log_softmax(1)[torch.arange(N), Y].mean(),
    "aten": lambda: torch.ops.aten.mse_loss(Z, W),
    "number": lambda: 0.5,
    "number of a loss": lambda: F.cross_entropy(X, Y).item(),
    "detached": lambda: F.cross_entropy(X, Y).detach(),
    "vector": lambda: F.cross_entropy(X, Y, reduction="none"),
    "not one an example": lambda: F.mse_loss(torch.rand(7), torch.rand(7)),
    "dict with a number": lambda: {"loss": 3.0},
}


@pytest.mark.parametrize("name", BY_HAND)
def test_an_uncapturable_loss_names_the_remedies(name: str) -> None:
    with pytest.raises(CaptureError, match=r"over 6 examples .*`example_losses\(self, batch\)`?.*loss_fn="):
        ScoringPass()(nn.Linear(1, 1), (X, Y), N, step=lambda _: BY_HAND[name]())


def test_the_message_shows_what_was_seen() -> None:
    with pytest.raises(CaptureError, match=r"returned Tensor\(6,\); loss functions seen: cross_entropy\(6,\)"):
        LossCapture(N).run(BY_HAND["vector"])
    with pytest.raises(CaptureError, match=r"returned float; loss functions seen: none"):
        LossCapture(N).run(BY_HAND["number"])


def test_none_is_none() -> None:
    assert LossCapture(N).run(lambda: None) is None
    assert LossCapture(N).run(lambda: {"other": 1}) is None
    assert ScoringPass()(nn.Linear(1, 1), (X, Y), N, step=lambda _: None) is None


# ---------------------------------------------------------------------- networks of others


def tiny(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    import transformers as hf

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    tokens, mask = whole(20, 5), torch.ones(N, 5, dtype=torch.int64)
    for i in range(N):
        mask[i, 5 - i % 4 :] = 0
    text = {"input_ids": tokens, "attention_mask": mask}
    if kind == "sequence":
        config = hf.BertConfig(vocab_size=20, max_position_embeddings=8, num_labels=3, **sizes)
        return hf.BertForSequenceClassification(config), {**text, "labels": Y % 3}
    if kind == "tokens":
        config = hf.BertConfig(vocab_size=20, max_position_embeddings=8, num_labels=3, **sizes)
        return hf.BertForTokenClassification(config), {**text, "labels": (tokens % 3).masked_fill(mask == 0, -100)}
    if kind == "causal":
        config = hf.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)
        return hf.GPT2LMHeadModel(config), {**text, "labels": tokens.masked_fill(mask == 0, -100)}
    config = hf.ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes)
    return hf.ViTForImageClassification(config), {"pixel_values": real(3, 8, 8), "labels": Y % 3}


@pytest.mark.parametrize("kind", ["sequence", "tokens", "causal", "image"])
def test_hugging_face_models_with_a_loss_inside(kind: str) -> None:
    model, batch = tiny(kind)
    scoring = ScoringPass()
    step = lambda rows: model(**rows).loss  # noqa: E731
    losses = scoring(model, batch, N, step=step)
    assert losses is not None
    model.eval()
    with torch.no_grad():
        single = [step({name: column[i : i + 1] for name, column in batch.items()}) for i in range(N)]
    close(losses, torch.stack(single), rtol=1e-4, atol=1e-5)
    assert losses.std() > 0
    scoring.verify(model, batch, N, losses, step=step)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

    def forward(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("what", "backend"),
    [
        ("whole", "aot_eager"),
        ("inner", "eager"),
        ("in place", "eager"),
        ("inner in place", "aot_eager"),
        ("loss function", "eager"),
    ],
)
def test_compiled_modules(what: str, backend: str) -> None:
    torch.compiler.reset()
    module = Step()
    plain = copy.deepcopy(module).eval()
    step: Any = module
    if what == "whole":
        module = step = torch.compile(module, backend=backend)
    elif what == "inner":
        module.net = torch.compile(module.net, backend=backend)
    elif what == "in place":
        module.compile(backend=backend)
    elif what == "inner in place":
        module.net.compile(backend=backend)
    else:
        loss = torch.compile(F.cross_entropy, backend=backend)
        step = lambda batch: loss(module.net(batch[0]), batch[1])  # noqa: E731
    step((X, Y)).backward()  # compiled before it is scored
    losses = ScoringPass()(module, (X, Y), N, step=step)
    assert losses is not None
    close(losses, torch.stack([plain((X[[i]], Y[[i]])) for i in range(N)]))
    step((X, Y)).backward()


@pytest.mark.parametrize("n", [10, 16])
def test_minus_one_over_n_is_as_good(n: int) -> None:
    """Of ten, that is a number of two digits."""
    x, y = torch.randn(n, 4), torch.arange(n) % 4
    found = capture(lambda: F.nll_loss(x.log_softmax(1), y, reduction="sum") * (-1 / n), n)
    close(found, -F.cross_entropy(x, y, reduction="none"))


def test_a_factor_that_is_no_number_makes_losses_that_are_none() -> None:
    assert capture(lambda: F.cross_entropy(X, Y, reduction="sum") * math.nan + F.mse_loss(Z, W)).isnan().all()
