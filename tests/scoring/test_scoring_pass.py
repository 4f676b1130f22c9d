"""Where losses come from, and the check that they belong to their rows."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring import CaptureError, ScoringPass
from litselect.scoring.capture_check import CaptureCheck

N, T, C = 8, 5, 4
BATCH = (torch.randn(N, T, C, generator=torch.Generator().manual_seed(0)), torch.arange(N * T).view(N, T) % C)


class Net(nn.Module):
    """A network with the step that a test gives it."""

    def __init__(self, step: Any = None) -> None:
        super().__init__()
        self.inner = nn.Linear(C, C)
        self.norm = nn.BatchNorm1d(C)
        self.drop = nn.Dropout(0.5)
        self.step = step

    def training_step(self, batch: Any) -> Any:
        return self.step(self, *batch)


def score(net: nn.Module, scoring: ScoringPass | None = None, batch: Any = BATCH, n: int = N) -> tuple[Tensor, bool]:
    """Score and verify, as a callback does."""
    scoring = ScoringPass() if scoring is None else scoring
    losses = scoring(net, batch, n, step=net.training_step)
    assert losses is not None
    return losses, scoring.verify(net, batch, n, losses, step=net.training_step)


# ---------------------------------------------------------------------- refused


def time_major(net: Net, x: Tensor, y: Tensor) -> Tensor:
    logits = net.inner(x).transpose(0, 1)
    return F.cross_entropy(logits.reshape(-1, C), y.T.reshape(-1))


def contrastive(net: Net, x: Tensor, y: Tensor) -> Tensor:
    image, text = F.normalize(net.inner(x[:, 0]), dim=1), F.normalize(x[:, 1], dim=1)
    logits, target = 5 * image @ text.T, torch.arange(len(x))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def mixup(net: Net, x: Tensor, y: Tensor) -> Tensor:
    other = torch.randperm(len(x))
    logits = net.inner(0.6 * x + 0.4 * x[other]).transpose(1, 2)
    return 0.6 * F.cross_entropy(logits, y) + 0.4 * F.cross_entropy(logits, y[other])


def coupled(net: Net, x: Tensor, y: Tensor) -> Tensor:
    hidden = net.inner(x)
    hidden = (hidden - hidden.mean(0)) / hidden.std(0)
    return F.cross_entropy(hidden.transpose(1, 2), y)


def two_views(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Two views of the batch, one after the other: rows 2i and 2i + 1 are no example."""
    return F.cross_entropy(net.inner(torch.cat([x[:, 0], x[:, 1]])), torch.cat([y[:, 0], y[:, 1]]))


@pytest.mark.parametrize(
    ("step", "n"),
    # mixup among few rows may have partners only among those that are kept
    [*itertools.product([time_major, contrastive, coupled, two_views], [4, 6, N]), (mixup, N)],
)
def test_losses_of_several_examples_are_refused(step: Any, n: int) -> None:
    batch = (BATCH[0][:n], BATCH[1][:n])
    with pytest.raises(CaptureError, match=r"changed the losses captured for others.*`example_losses.*loss_fn="):
        score(Net(step), batch=batch, n=n)
    score(Net(step), ScoringPass(check=False), batch=batch, n=n)  # whoever wants it may


# ---------------------------------------------------------------------- accepted


def plain(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net.inner(x).transpose(1, 2), y)


def noise(net: Net, x: Tensor, y: Tensor) -> Tensor:
    x = x + torch.randn_like(x) + torch.from_numpy(np.random.normal(size=x.shape)).float()  # noqa: NPY002
    return F.cross_entropy(net.inner(x).transpose(1, 2), y)


def dropout(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net.inner(F.dropout(x, training=True)).transpose(1, 2), y)


def over_valid(net: Net, x: Tensor, y: Tensor) -> Tensor:
    valid = (y != 1) & (y < 3)
    losses = F.cross_entropy(net.inner(x).transpose(1, 2), y, reduction="none")
    return (losses * valid).sum() / valid.sum()


def ignoring(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net.inner(x).transpose(1, 2), y, ignore_index=1, weight=torch.arange(1.0, C + 1))


def root(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(net.inner(x), x).sqrt()


def normalised(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net.drop(net.norm(net.inner(x[:, 0]))), y[:, 0])


@pytest.mark.parametrize("step", [plain, noise, dropout, over_valid, ignoring, root, normalised])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses_of_single_examples_are_accepted(step: Any, mode: Any) -> None:
    losses, settled = score(Net(step), ScoringPass(mode))
    assert settled
    assert losses.std() > 0


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_precision(precision: Any) -> None:
    dtypes = []

    def step(net: Net, x: Tensor, y: Tensor) -> Tensor:
        dtypes.append(net.inner(x).dtype)
        return plain(net, x, y)

    score(Net(step), ScoringPass(precision=precision))
    assert set(dtypes) == {torch.float32 if precision is None else torch.bfloat16}


def test_two_rows_tell_nothing_and_less_than_eight_little() -> None:
    assert score(Net(contrastive), batch=(BATCH[0][:2], BATCH[1][:2]), n=2)[1] is False
    for n in (3, 5, 7):
        assert score(Net(plain), batch=(BATCH[0][:n], BATCH[1][:n]), n=n)[1] is False
    assert score(Net(plain))[1] is True
    with pytest.raises(CaptureError):
        score(Net(contrastive), batch=(BATCH[0][:3], BATCH[1][:3]), n=3)


def test_an_output_layer_that_starts_from_zero_tells_nothing() -> None:
    net = Net(time_major)
    nn.init.zeros_(net.inner.weight)
    nn.init.zeros_(net.inner.bias)
    assert score(net)[1] is False
    nn.init.normal_(net.inner.weight)
    with pytest.raises(CaptureError):
        score(net)


def test_a_row_that_is_not_finite_hides_no_fault() -> None:
    x = BATCH[0].clone()
    x[1] = torch.nan
    with pytest.raises(CaptureError):
        score(Net(two_views), batch=(x, BATCH[1]))
    score(Net(plain), batch=(x, BATCH[1]))


# ---------------------------------------------------------------------- a part that is not captured


def dice(net: Net, x: Tensor, y: Tensor) -> Tensor:
    true = F.one_hot(y, C)
    likely = net.inner(x).softmax(-1)
    return 1 - 2 * (likely * true).sum() / (likely + true).sum()


def with_dice(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return plain(net, x, y) + dice(net, x, y)


def with_dice_unreduced(net: Net, x: Tensor, y: Tensor) -> Tensor:
    losses = F.cross_entropy(net.inner(x).transpose(1, 2), y, reduction="none")
    return losses.mean() + dice(net, x, y)


def variational(net: Net, x: Tensor, y: Tensor) -> Tensor:
    mean = net.inner(x)
    return F.mse_loss(mean + torch.randn_like(mean), x) + 0.5 * (mean**2).mean()


def with_dice_in_a_dict(net: Net, x: Tensor, y: Tensor) -> Any:
    return {"loss": with_dice(net, x, y)}


@pytest.mark.parametrize("step", [with_dice, with_dice_unreduced, variational, with_dice_in_a_dict])
@pytest.mark.parametrize("scoring", [ScoringPass(), ScoringPass("train"), ScoringPass(chunk=4)])
def test_a_part_of_the_loss_that_is_not_captured_is_not_missed(step: Any, scoring: ScoringPass) -> None:
    with pytest.raises(CaptureError, match=r"the captured losses lack it.*`example_losses.*loss_fn="):
        score(Net(step), scoring)


def test_it_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CaptureCheck, "whole", lambda *args: None)
    score(Net(with_dice))


def decayed(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return plain(net, x, y) + sum(p.square().sum() for p in net.parameters())


def with_a_bonus(net: Net, x: Tensor, y: Tensor) -> Tensor:
    logits = net.inner(x)
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    return plain(net, x, y) - 1e-3 * entropy


def own_sum(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Unreduced, and the own part is one of each element: all of it is captured."""
    logits = net.inner(x)
    losses = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")
    return (losses + logits.square().sum(-1)).mean()


def scaled_by_its_value(net: Net, x: Tensor, y: Tensor) -> Tensor:
    first, second = plain(net, x, y), F.mse_loss(net.inner(x), x)
    return first + second * (first.item() / second.item())


def where_positive(net: Net, x: Tensor, y: Tensor) -> Tensor:
    loss = plain(net, x, y)
    return loss if loss.item() > 0 else loss.detach()


def flooded(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return (plain(net, x, y) - 0.2).abs() + 0.2


def by_uncertainty(net: Net, x: Tensor, y: Tensor) -> Tensor:
    scale = net.inner.bias[0]
    return (-scale).exp() * plain(net, x, y) + scale


@pytest.mark.parametrize(
    "step", [decayed, root, with_a_bonus, own_sum, scaled_by_its_value, where_positive, flooded, by_uncertainty]
)
def test_what_does_not_tell_rows_apart_may_be_added(step: Any) -> None:
    assert score(Net(step))[1]


# ---------------------------------------------------------------------- mode, chunks


def test_eval_scores_each_example_alone() -> None:
    net = Net(normalised)
    losses, _ = score(net)
    alone = copy.deepcopy(net).eval()
    single = [alone.training_step((BATCH[0][[i]], BATCH[1][[i]])) for i in range(N)]
    torch.testing.assert_close(losses, torch.stack(single).detach())
    assert not torch.allclose(losses, score(net, ScoringPass("train"))[0])


def masked_mean(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """The later an example, the fewer of its tokens count."""
    tokens = F.cross_entropy(net.inner(x).flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
    mask = torch.arange(T) < 1 + torch.arange(N)[y[:, 0]][:, None] % T
    return (tokens * mask).sum() / mask.sum()


def masked_by_number(net: Net, x: Tensor, y: Tensor) -> Tensor:
    tokens = F.cross_entropy(net.inner(x).flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
    mask = torch.arange(T) <= y[:, :1]
    count = mask.sum().item()
    assert count not in (10, 20), "one over which is taken for a factor, as somebody writes it"
    return (tokens * mask).sum() * (1 / count)


@pytest.mark.parametrize(
    ("step", "size"),
    [(masked_mean, 2), (masked_mean, 3), (masked_mean, 4), (masked_by_number, 2), (masked_by_number, 3)],
)
def test_chunks_are_of_one_scale_where_the_step_divides_by_a_count(step: Any, size: int) -> None:
    net = Net(step)
    batch = BATCH[0], torch.arange(N)[:, None].expand(N, T).clamp_max(C - 1)
    whole, chunked = (ScoringPass(chunk=chunk)(net, batch, N, step=net.training_step) for chunk in (None, size))
    assert whole is not None
    assert chunked is not None
    torch.testing.assert_close(chunked / chunked.sum(), whole / whole.sum())


def reentrant(net: Net, x: Tensor, y: Tensor) -> Tensor:
    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(net.inner(x).flatten(0, 1), y.flatten())

    hidden = torch.utils.checkpoint.checkpoint(loss, x.requires_grad_(), use_reentrant=True)  # pyright: ignore
    return hidden + 0.1 * F.mse_loss(net.inner(x).sum(2), y.float())


def test_a_loss_within_a_reentrant_checkpoint_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside another loss it went unnoticed, and examples were chosen by that other loss alone."""
    with pytest.raises(CaptureError, match="or within a checkpoint with use_reentrant=True"):
        score(Net(reentrant))
    monkeypatch.setattr(CaptureCheck, "whole", lambda *args: None)
    score(Net(reentrant))


def with_metric(net: Net, x: Tensor, y: Tensor) -> Tensor:
    logits = net.inner(x).flatten(0, 1)
    F.mse_loss(logits, torch.zeros_like(logits))  # of which nothing is made
    return F.cross_entropy(logits, y.flatten())


def test_a_metric_is_no_missing_part() -> None:
    assert score(Net(with_metric))[1]


def test_chunks_give_the_same_losses() -> None:
    net = Net(plain)
    whole, _ = score(net)
    for size in (1, 3, 5, N, 100):
        torch.testing.assert_close(score(net, ScoringPass(chunk=size))[0], whole)


# ---------------------------------------------------------------------- sources


class Own(Net):
    def example_losses(self, batch: Any) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return batch[0].flatten(1).sum(1).double()


def constant(value: float) -> Any:
    return lambda module, batch: torch.full((len(batch[0]),), value)


def test_the_order_of_the_sources() -> None:
    own, bare = Own(plain), Net(plain)
    expected = BATCH[0].flatten(1).sum(1)
    scoring = ScoringPass()
    torch.testing.assert_close(scoring(own, BATCH, N, step=own.training_step, loss_fn=constant(1)), expected)
    assert scoring(bare, BATCH, N, step=bare.training_step, loss_fn=constant(2)).tolist() == [2] * N  # type: ignore
    assert scoring(bare, BATCH, N, step=bare.training_step).std() > 0  # type: ignore
    with pytest.raises(CaptureError, match=r"Net has no per-example loss\. Define `example_losses"):
        scoring(bare, BATCH, N)


def test_given_losses_are_float32_and_not_checked() -> None:
    own = Own(contrastive)
    losses = ScoringPass()(own, BATCH, N)
    assert losses is not None
    assert losses.dtype is torch.float32
    assert ScoringPass().verify(own, BATCH, N, losses, step=own.training_step)
    bare = Net(contrastive)
    assert ScoringPass().verify(bare, BATCH, N, losses, step=bare.training_step, loss_fn=constant(1))


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (torch.tensor(1.0), r"a tensor of shape \(\)"),
        (torch.ones(N, 1), r"a tensor of shape \(8, 1\)"),
        (torch.ones(N - 1), r"a tensor of shape \(7,\)"),
        ([1.0] * N, "list"),
        (1.0, "float"),
        (None, "NoneType"),
    ],
)
def test_a_wrong_answer_is_refused(answer: Any, got: str) -> None:
    message = rf"must return one loss per example, a tensor of shape \(8,\), but returned {got}\. Compute the loss with"
    with pytest.raises(ValueError, match=f"loss_fn {message}"):
        ScoringPass()(Net(), BATCH, N, loss_fn=lambda module, batch: answer)
    own = Own()
    own.example_losses = lambda batch: answer  # type: ignore
    with pytest.raises(ValueError, match=f"Own.example_losses {message}"):
        ScoringPass()(own, BATCH, N)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match='"eval" or "train", but got \'test\''):
        ScoringPass("test")  # type: ignore
    with pytest.raises(ValueError, match=r'precision to be None .* or "bf16", but got 16'):
        ScoringPass(precision=16)  # type: ignore
    with pytest.raises(ValueError, match="chunk to be a number of rows >= 1"):
        ScoringPass(chunk=0)


def test_an_error_of_the_step_stays_what_it_is() -> None:
    def broken(net: Net, x: Tensor, y: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        score(Net(broken))
    if hasattr(caught.value, "__notes__"):
        assert "scoring pass" in caught.value.__notes__[0]
