"""Gradients of k rows out of a forward of N: what they equal, and what is refused."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring.forward_reuse import ForwardReuse, Unsupported, engine, plan, self_check
from litselect.scoring.forward_reuse.row_block import RowBlock
from litselect.scoring.forward_reuse.row_layout import RowLayout, take_places
from litselect.scoring.no_trace import NoTrace
from litselect.scoring.rows import take_rows

N, T, D, C = 12, 6, 8, 5
ROWS = torch.tensor([0, 3, 4, 9, 11])


def images(channels_last: bool = False) -> tuple[Tensor, Tensor]:
    x = torch.randn(N, 3, 8, 8)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x, torch.arange(N) % C


def vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(N, D), torch.arange(N) % C


def series() -> tuple[Tensor, Tensor]:
    return torch.randn(N, T, D), torch.arange(N) % C


def tokens() -> tuple[Tensor, Tensor]:
    return torch.randint(C, (N, T)), torch.randint(C, (N, T))


# ---------------------------------------------------------------------- networks


def mlp(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(D, 16), nn.ReLU(), *between, nn.Linear(16, C))


def convolutions(norm: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.GroupNorm(2, 8) if norm is None else norm,
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, C),
    )


class Attention(nn.Module):
    """nn.MultiheadAttention as it is by default: time first, and [T * B] in its linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.MultiheadAttention(D, 2), nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.head(self.mix(x, x, x)[0].mean(0))


class Transformer(nn.Module):
    def __init__(self, dropout: float = 0.0, batch_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(D, 2, 16, dropout, batch_first=batch_first)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(D, C)
        self.dim = 1 if batch_first else 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x if self.dim else x.transpose(0, 1)).mean(self.dim))


class Language(nn.Module):
    """A language model, whose layers see [B * T] rows, or [T * B]. It makes its positions in every forward."""

    def __init__(self, time_first: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(C, D), nn.Embedding(T, D)
        self.layers = nn.Sequential(nn.LayerNorm(D), nn.Dropout(dropout), nn.Linear(D, D), nn.GELU(), nn.Linear(D, C))
        self.time_first = time_first

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x) + self.places(torch.arange(x.shape[1]))
        if not self.time_first:
            return self.layers(h.reshape(-1, D))
        return self.layers(h.transpose(0, 1).reshape(-1, D)).reshape(T, len(x), C).transpose(0, 1).reshape(-1, C)


EXACT: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "MLP": (mlp, vectors),
    "LayerNorm": (lambda: mlp(nn.LayerNorm(16)), vectors),
    "convolutions, GroupNorm, max-pooling": (convolutions, images),
    "channels last": (lambda: convolutions().to(memory_format=torch.channels_last), lambda: images(True)),
    "InstanceNorm": (lambda: convolutions(nn.InstanceNorm2d(8, affine=True)), images),
    "frozen BatchNorm": (lambda: convolutions(nn.BatchNorm2d(8).eval()), images),
    "attention, batch inside": (Attention, series),
    "transformer": (Transformer, series),
    "transformer, batch inside": (lambda: Transformer(batch_first=False), series),
    "language model": (Language, tokens),
    "language model, time first": (lambda: Language(True), tokens),
}


def step_of(net: nn.Module, loss: Any = None) -> Any:
    return lambda batch: (loss or F.cross_entropy)(net(batch[0]), batch[1].flatten())


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad]))


def reuse(net: nn.Module, step: Any, batch: Any, rows: Tensor = ROWS, **settings: Any) -> list[Tensor]:
    """The gradient out of one forward; the plan is made with other rows."""
    engine = ForwardReuse(net, **settings)
    assert engine.record(step, batch, N) is not None
    engine.prepare(torch.arange(len(rows)) * N // len(rows))
    return gradients(replay(engine, step, batch, rows), net)


def replay(engine: ForwardReuse, step: Any, batch: Any, rows: Tensor = ROWS) -> Tensor:
    some = take_rows(batch, rows, N)
    return engine.replay(lambda: step(some), rows)


def refused(net: nn.Module, step: Any, batch: Any, **settings: Any) -> str:
    with pytest.raises(Unsupported) as found:
        reuse(net, step, batch, **settings)
    return str(found.value)


def close(one: list[Tensor], other: list[Tensor], tolerance: float = 1e-6) -> bool:
    return all((a - b).norm() <= tolerance * (b.norm() + 1e-3) for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("name", EXACT)
def test_gradient_is_that_of_a_forward_of_the_rows(name: str) -> None:
    make, data = EXACT[name]
    net, batch = make(), data()
    step = step_of(net)
    expected = gradients(step(take_rows(batch, ROWS, N)), net)
    assert close(reuse(net, step, batch), expected)


@pytest.mark.parametrize("name", ["convolutions, GroupNorm, max-pooling", "transformer"])
def test_gradient_is_so_under_autocast(name: str) -> None:
    make, data = EXACT[name]
    net, batch = make(), data()

    def step(batch: Any) -> Tensor:
        torch.clear_autocast_cache()
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(net(batch[0]), batch[1])

    assert close(reuse(net, step, batch), gradients(step(take_rows(batch, ROWS, N)), net), 1e-3)


def masked(net: nn.Module, batch: Any) -> list[Tensor]:
    """The gradient of the rows' loss through a forward of all N."""
    losses = F.cross_entropy(net(batch[0]), batch[1].flatten(), reduction="none").reshape(N, -1)
    return gradients(losses[ROWS].mean(), net)


DROPOUT: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "MLP": (lambda: mlp(nn.Dropout(0.4)), vectors),
    "transformer": (lambda: Transformer(0.2), series),
    "transformer, batch inside": (lambda: Transformer(0.2, False), series),
    "language model": (lambda: Language(dropout=0.3), tokens),
    "language model, time first": (lambda: Language(True, 0.3), tokens),
}


@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_masks_are_those_of_all_candidates(name: str) -> None:
    make, data = DROPOUT[name]
    net, batch = make(), data()
    torch.manual_seed(7)
    found = reuse(net, step_of(net), batch)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    assert close(found, masked(net, batch), 1e-5)
    assert torch.equal(after, torch.get_rng_state())  # the stream stands where one forward of N leaves it


def two_losses(net: nn.Module, batch: Any) -> Tensor:
    logits = net(batch[0])
    return F.cross_entropy(logits, batch[1]) + 0.3 * F.mse_loss(logits, F.one_hot(batch[1], C).float())


def penalty(net: nn.Module, batch: Any) -> Tensor:
    features = net[:2](batch[0])
    loss = F.cross_entropy(net[2:](features), batch[1])
    return loss + 0.1 * features.pow(2).mean() + 0.1 * net[0](batch[0]).abs().mean()


def masked_mean(net: nn.Module, batch: Any) -> Tensor:
    losses = F.cross_entropy(net(batch[0]), batch[1], reduction="none")
    return (losses * (losses.detach() > 1)).sum() / len(losses)


def kept_view(net: nn.Module, batch: Any) -> Tensor:
    logits = net(batch[0])
    first, wide = logits[:, 1:], logits.mean(1, keepdim=True).expand(-1, 3)
    return F.cross_entropy(logits, batch[1]) + first.square().mean() + wide.exp().mean()


def distilled(net: nn.Module, batch: Any) -> Tensor:
    """A loss that autograd saves an argument of before it calls any operation."""
    with torch.no_grad():
        target = net(batch[0] / 2).softmax(1)
    return F.kl_div(net(batch[0]).log_softmax(1), target, reduction="batchmean")


@pytest.mark.parametrize("loss", [distilled, two_losses, penalty, masked_mean, kept_view])
def test_what_the_step_does_after_its_first_loss_is_computed(loss: Any) -> None:
    net, batch = mlp(), vectors()
    rows = take_rows(batch, ROWS, N)
    values: list[float] = []

    def step(batch: Any) -> Tensor:
        value = loss(net, batch)
        values.append(value.item())
        return value

    found = reuse(net, step, batch)
    assert close(found, gradients(loss(net, rows), net))
    assert values[-1] == pytest.approx(loss(net, rows).item())


def test_nothing_is_filled_without_the_guard(monkeypatch: Any) -> None:
    monkeypatch.setattr(engine.Replay, "_fill", lambda *_: None)
    net, batch = mlp(), vectors()
    with pytest.raises(Unsupported, match="gradient is wrong"):
        reuse(net, lambda batch: penalty(net, batch), batch)


# ---------------------------------------------------------------------- batch normalisation


def by_formula(net: Any, x: Tensor, y: Tensor) -> list[Tensor]:
    """Linear, BatchNorm, Linear: the documented gradient, written out."""
    first, norm, last = net
    h = x @ first.weight.T + first.bias
    mean, deviation = h.mean(0), (h.var(0, unbiased=False) + norm.eps).sqrt()
    x, y, hat = x[ROWS], y[ROWS], ((h - mean) / deviation)[ROWS]
    z = hat * norm.weight + norm.bias
    p = (z @ last.weight.T + last.bias).softmax(1)
    dlogits = (p - F.one_hot(y, C)) / len(ROWS)
    dz = dlogits @ last.weight
    dh = norm.weight / deviation * (dz - dz.mean(0) - hat * (dz * hat).mean(0))
    return [dh.T @ x, dh.sum(0), (dz * hat).sum(0), dz.sum(0), dlogits.T @ z, dlogits.sum(0)]


def test_batch_norm_has_the_documented_gradient() -> None:
    net, (x, y) = nn.Sequential(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.Linear(16, C)), vectors()
    with torch.no_grad():
        expected = by_formula(net, x, y)
    found = reuse(net, step_of(net), (x, y), batch_norm=True)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert i == 1 or torch.allclose(a, b, atol=1e-6)  # the bias before has none but rounding


def test_running_statistics_are_those_of_one_forward_of_all() -> None:
    net, batch = convolutions(nn.BatchNorm2d(8)), images()
    step = step_of(net)
    engine = ForwardReuse(net, batch_norm=True)
    before = [b.clone() for b in net.buffers()]
    engine.record(step, batch, N)
    engine.prepare(ROWS)
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
    replay(engine, step, batch)
    found = [b.clone() for b in net.buffers()]
    for buffer, content in zip(net.buffers(), before, strict=True):
        buffer.copy_(content)
    step(batch)
    assert all(torch.equal(a, b) for a, b in zip(found, net.buffers(), strict=True))


def test_batch_norm_must_be_asked_for(monkeypatch: Any) -> None:
    net = convolutions(nn.BatchNorm2d(8))
    assert "batch normalisation in train mode" in refused(net, step_of(net), images())
    monkeypatch.setattr(ForwardReuse, "_look_for_batch_norm", lambda self: None)
    assert len(reuse(net, step_of(net), images())) == 6  # it is what keeps it out


# ---------------------------------------------------------------------- refused


def branch(net: nn.Module, batch: Any) -> Tensor:
    logits = net(batch[0])
    return F.cross_entropy(logits if logits.mean() > 0 else 2 * logits, batch[1])


def reading(net: nn.Module, batch: Any) -> Tensor:
    logits = net(batch[0])
    scale = 1 + len(logits.detach().abs().sum(1).tolist()) * 0
    return F.cross_entropy(logits * scale, batch[1])


def selecting(net: nn.Module, batch: Any) -> Tensor:
    logits = net(batch[0])
    return F.cross_entropy(logits, batch[1]) + logits[batch[1] > 2].square().sum()


def centred(net: nn.Module, batch: Any) -> Tensor:
    logits = net(batch[0])
    return F.cross_entropy(logits - logits.mean(0), batch[1])


def counted_early(net: nn.Module, batch: Any) -> Tensor:
    logits = net(batch[0])
    accuracy = (logits.argmax(1) == batch[1]).float().mean()
    return F.cross_entropy(logits, batch[1]) + 0 * accuracy


def penalised_early(net: nn.Module, batch: Any) -> Tensor:
    logits = net(batch[0])
    size = logits.square().mean()
    return F.cross_entropy(logits, batch[1]) + size


class OnContext(torch.autograd.Function):
    """Keeps its input on the context, as a tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        return 2 * ctx.x * gradient[0]


class OutOfSight(OnContext):
    """Keeps it where no one sees it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.memory, ctx.shape = x.untyped_storage(), x.shape
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        return 2 * torch.empty(0).set_(ctx.memory, 0, ctx.shape) * gradient[0]


class Saved(OnContext):
    """Keeps it as it should."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        return 2 * ctx.saved_tensors[0] * gradient[0]


class Squared(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(D, C, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[0][:, -1]


class Similar(nn.Module):
    """Looks at all pairs of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return (h @ h.T).softmax(1) @ h


def test_steps_that_are_refused_and_why() -> None:
    net, batch, similar, lstm = mlp(), vectors(), Similar(), Recurrent()
    assert "depend on values" in refused(net, lambda b: branch(net, b), batch)
    assert "reads values (tolist)" in refused(net, lambda b: reading(net, b), batch)
    assert "examples influence each other" in refused(net, lambda b: centred(net, b), batch)
    assert "reduces over the examples before" in refused(net, lambda b: counted_early(net, b), batch)
    assert "reduces over the examples before" in refused(net, lambda b: penalised_early(net, b), batch)
    assert "calls no loss function" in refused(net, lambda b: net(b[0]).square().mean(), batch)
    assert "has shape (12, 12)" in refused(similar, step_of(similar), batch)
    assert "has shape" in refused(lstm, step_of(lstm), series())
    assert "before autograd has saved anything" in refused(
        net, lambda b: F.mse_loss(b[0], b[0]) + step_of(net)(b), batch
    )


def test_a_choice_after_the_first_loss_is_none_of_ours() -> None:
    net, batch = mlp(), vectors()
    expected = gradients(selecting(net, take_rows(batch, ROWS, N)), net)
    assert close(reuse(net, lambda b: selecting(net, b), batch), expected)


def test_memory_that_no_one_sees_is_found_by_the_check(monkeypatch: Any) -> None:
    net, batch = mlp(Squared(OutOfSight)), vectors()
    assert "gradient is wrong by" in refused(net, step_of(net), batch)
    expected = gradients(step_of(net)(take_rows(batch, ROWS, N)), net)
    monkeypatch.setattr(engine, "check", lambda *_: True)
    assert not close(reuse(net, step_of(net), batch), expected)  # nothing else would find them


@pytest.mark.parametrize("function", [Saved, OnContext])
def test_tensors_that_are_saved_or_held_have_their_rows(function: Any) -> None:
    net, batch = mlp(Squared(function)), vectors()
    assert close(reuse(net, step_of(net), batch), gradients(step_of(net)(take_rows(batch, ROWS, N)), net))


def test_examples_that_influence_each_other_are_found_by_the_check(monkeypatch: Any) -> None:
    net, batch = mlp(), vectors()
    monkeypatch.setattr(engine, "check", lambda *_: True)
    found = reuse(net, lambda b: centred(net, b), batch)
    losses = F.cross_entropy((h := net(batch[0])) - h.mean(0), batch[1], reduction="none")
    assert not close(found, gradients(losses[ROWS].mean(), net))


def test_a_wrong_layout_is_found_by_the_check(monkeypatch: Any) -> None:
    wrong = lambda seen, dim, factor, k, replaced: (1, factor)  # noqa: E731 - as if time never came first
    monkeypatch.setattr("litselect.scoring.forward_reuse.row_layout._split", wrong)
    net = Attention()
    assert "are among all candidates" in refused(net, step_of(net), series())


def fused(q: Tensor, dropout_p: float = 0.0) -> Tensor:
    return q.clone()


@pytest.fixture(scope="module")
def attention() -> Any:
    """An operation with a dropout of its own, as fused attention on an accelerator has."""
    function = torch.library.custom_op("litselect_tests::fused", fused, mutates_args=(), schema=None)
    function.register_autograd(lambda ctx, gradient: (gradient, None))
    return function


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_dropout_of_fused_attention_is_refused(attention: Any, rate: float) -> None:
    net, batch = mlp(), vectors()

    def step(batch: Any) -> Tensor:
        return F.cross_entropy(attention(net(batch[0]), dropout_p=rate), batch[1])

    if rate:
        assert "draws its dropout (p=0.1) again in backward" in refused(net, step, batch)
    else:
        assert len(reuse(net, step, batch)) == 4


def test_other_operations_than_planned_are_found() -> None:
    net, batch, extra = mlp(), vectors(), []

    def step(batch: Any) -> Tensor:
        h = net[:2](batch[0])
        return F.cross_entropy(net[2](2 * h if extra else h), batch[1])

    engine = ForwardReuse(net)
    engine.record(step, batch, N)
    engine.prepare(ROWS)
    extra.append(1)
    with pytest.raises(Unsupported, match=r"replay differs: operation|replay differs: autograd"):
        gradients(replay(engine, step, batch), net)


def test_parameters_that_changed_are_found() -> None:
    net, batch = mlp(), vectors()
    step = step_of(net)
    engine = ForwardReuse(net)
    engine.record(step, batch, N)
    engine.prepare(ROWS)
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(Unsupported, match="parameters change"):
        replay(engine, step, batch)


def test_changes_in_place_after_the_loss_are_found() -> None:
    net, batch = mlp(), vectors()

    def step(batch: Any) -> Tensor:
        logits = net(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        with torch.no_grad():
            logits.mul_(2)
        return loss

    assert "changes in place, after its loss" in refused(net, step, batch)


def test_batches_that_always_differ_are_given_up() -> None:
    net = mlp()
    found = ForwardReuse(net)

    def meet(n: int) -> None:
        found.record(step_of(net), (torch.randn(n, D), torch.arange(n) % C), n)
        found.prepare(torch.arange(3))

    for n in range(6, 6 + engine._PLANS):
        meet(n)
    with pytest.raises(Unsupported, match="16 kinds were seen"):
        meet(30)
    assert len(found._plans) == engine._PLANS


# ---------------------------------------------------------------------- checks that settle nothing; plans


def test_a_check_is_repeated_while_parameters_have_no_gradient(monkeypatch: Any) -> None:
    checks: list[Any] = []
    original = self_check.check
    monkeypatch.setattr(engine, "check", lambda *args: checks.append(1) or original(*args))
    net, batch = mlp(), vectors()
    nn.init.zeros_(net[2].weight)  # so that nothing before has a gradient
    found = ForwardReuse(net)
    for _ in range(3):
        found.record(step_of(net), batch, N)
        found.prepare(ROWS)
    assert len(checks) == 3
    nn.init.normal_(net[2].weight)
    for _ in range(3):
        found.record(step_of(net), batch, N)
        found.prepare(ROWS)
    assert len(checks) == 4


def test_one_plan_serves_all_rows(monkeypatch: Any) -> None:
    made: list[int] = []
    original = plan.Plan.make.__func__
    counted = classmethod(lambda cls, *args: made.append(1) or original(cls, *args))
    monkeypatch.setattr(plan.Plan, "make", counted)
    net = Transformer()
    found = ForwardReuse(net)
    for seed in range(4):
        batch, rows = series(), torch.randperm(N)[:5].sort().values
        found.record(step_of(net), batch, N)
        found.prepare(rows)
        loss = replay(found, step_of(net), batch, rows)
        assert close(gradients(loss, net), gradients(step_of(net)(take_rows(batch, rows, N)), net)), seed
    assert len(made) == 1


# ---------------------------------------------------------------------- traces and memory


class Noting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.count = mlp(nn.Dropout(0.5)), 0
        self.register_buffer("mean", torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.net(x)


def state_of(net: Noting) -> Any:
    return net.count, net.mean.tolist(), torch.get_rng_state().tolist(), net.net[0].weight.grad


@pytest.mark.parametrize("guarded", [True, False])
def test_a_recording_leaves_no_trace_and_a_replay_that_of_one_forward(guarded: bool, monkeypatch: Any) -> None:
    net, batch = Noting(), vectors()
    step, found = step_of(net), ForwardReuse(net)
    if not guarded:
        monkeypatch.setattr(NoTrace, "put_back", lambda self: None)
    before = state_of(net)
    found.record(step, batch, N)
    assert (state_of(net) == before) == guarded
    if guarded:
        found.prepare(ROWS)
        assert state_of(net) == before
        replay(found, step, batch)
        after = state_of(net)
        net.count, net.mean[:] = 0, 0
        torch.set_rng_state(torch.tensor(before[2], dtype=torch.uint8))
        step(batch)
        assert state_of(net) == after


def test_memory_is_freed_by_backward_and_by_dropping() -> None:
    net, batch = convolutions(), images()
    step, found = step_of(net), ForwardReuse(net)

    def recorded() -> list[Any]:
        found.record(step, batch, N)
        found.prepare(ROWS)
        assert found.recording is not None
        own = [*net.parameters(), batch[0]]
        return [weakref.ref(t) for t in found.recording.recorder.saved if not any(t is other for other in own)]

    saved = recorded()
    loss = replay(found, step, batch)
    assert any(tensor() is not None for tensor in saved)  # the graph holds them
    loss.backward()
    assert [tensor() for tensor in saved if tensor() is not None] == []
    saved = recorded()
    found.drop()
    assert [tensor() for tensor in saved if tensor() is not None] == []


def test_memory_is_freed_where_a_step_raises() -> None:
    net, batch = mlp(), vectors()
    found, kept = ForwardReuse(net), []

    def broken(batch: Any) -> Tensor:
        h = net(batch[0])
        kept.append(weakref.ref(h))
        F.cross_entropy(h, batch[1])
        raise RuntimeError("broken")

    with pytest.raises(Unsupported, match="recording it raised RuntimeError: broken"):
        found.record(broken, batch, N)
    assert kept[0]() is None
    assert found.recording is None


# ---------------------------------------------------------------------- rows of tensors


@pytest.mark.parametrize(("outer", "inner"), [(1, 1), (3, 1), (1, 4), (3, 4)])
def test_rows_of_a_flattened_dimension(outer: int, inner: int) -> None:
    full = torch.randn(outer, N, inner, 2)
    places = RowLayout(0, outer, inner).places(ROWS, N)
    expected = full[:, ROWS].reshape(-1, 2)
    assert torch.equal(take_places(full.reshape(-1, 2), 0, places), expected)


def test_rows_keep_the_memory_format() -> None:
    x = torch.randn(N, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    taken = take_places(x, 0, ROWS)
    assert torch.equal(taken, x[ROWS])
    assert taken.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("outer", "inner"), [(1, 1), (3, 1), (1, 4), (3, 4)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_blocks_of_rows_are_rows_in_any_memory_format(outer: int, inner: int, order: tuple[int, ...]) -> None:
    inverse = [order.index(d) for d in range(3)]
    full = torch.randn(outer * N * inner, 2, 5).permute(order).contiguous().permute(inverse)
    layout = RowLayout(0, outer, inner)
    block = RowBlock.of(full, layout, N, len(ROWS))
    assert block is not None
    taken = block.shaped(block.take(full, ROWS))
    assert torch.equal(taken, take_places(full, 0, layout.places(ROWS, N)))
    assert taken.permute(order).is_contiguous()


def test_what_is_not_dense_has_no_block() -> None:
    assert RowBlock.of(torch.randn(N, 1).expand(N, 3), RowLayout(0), N, 5) is None
    assert RowBlock.of(torch.randn(N, 6)[:, ::2], RowLayout(0), N, 5) is None
