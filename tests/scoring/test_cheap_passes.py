"""Passes that cost less: other layouts, resolutions, compiled, by a proxy."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring import CaptureError, ScoringPass
from litselect.scoring.no_trace import TraceMemory

N = 8
X, Y = torch.rand(N, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 4


class Spy(nn.Module):
    """Passes images on and notes what they are like."""

    def forward(self, x: Tensor) -> Tensor:
        notes.append((tuple(x.shape), x.is_contiguous(memory_format=torch.channels_last), x.dtype))
        return x


notes: list[Any] = []


class Net(nn.Module):
    def __init__(self, spy: bool = True) -> None:
        super().__init__()
        self.net = nn.Sequential(
            Spy() if spy else nn.Identity(), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip

    def training_step(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])


def score(scoring: ScoringPass, net: Any = None, batch: Any = (X, Y), **more: Any) -> Tensor:
    torch.manual_seed(3)
    net = Net() if net is None else net
    notes.clear()
    losses = scoring(net, batch, N, step=net.training_step, **more)
    assert losses is not None
    return losses


# ---------------------------------------------------------------------- images


def test_channels_last_changes_the_layout_alone() -> None:
    plain = score(ScoringPass())
    assert not notes[0][1]
    torch.testing.assert_close(score(ScoringPass(memory_format=torch.channels_last)), plain)
    assert notes == [((N, 3, 12, 12), True, torch.float32)]
    assert X.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_pixels_are_means_of_those_they_stand_for(dtype: torch.dtype) -> None:
    images = (255 * X).to(dtype)
    seen: list[Tensor] = []

    class Looks(Net):
        def training_step(self, batch: Any) -> Tensor:
            seen.append(batch[0])
            return super().training_step((batch[0].float(), batch[1]))

    score(ScoringPass(resolution=0.5), Looks(), (images, Y))
    expected = images.float().reshape(N, 3, 6, 2, 6, 2).mean((3, 5))
    torch.testing.assert_close(seen[0].float(), expected.round() if dtype == torch.uint8 else expected)
    assert seen[0].dtype == dtype


def test_all_of_it_can_be_combined() -> None:
    scoring = ScoringPass("train", precision="bf16", memory_format=torch.channels_last, resolution=0.75, chunk=3)
    score(scoring)
    assert {(shape[1:], last) for shape, last, _ in notes} == {((3, 9, 9), True)}
    assert len(notes) == 3
    assert "resolution=0.75" in repr(scoring)


@pytest.mark.parametrize(
    ("batch", "option"),
    [
        ((torch.rand(N, 5), Y), {"resolution": 0.5}),
        ((torch.rand(N, 5), Y), {"memory_format": torch.channels_last}),
        ((X, X.clone(), Y), {"resolution": 0.5}),  # the second may be what is to be predicted
        ((torch.rand(N, 3, 4, 8, 8), Y), {"resolution": 0.5}),
    ],
)
def test_batches_without_images_are_refused(batch: Any, option: Any) -> None:
    with pytest.raises(ValueError, match=r"images \[N, C, H, W\].*were received"):
        score(ScoringPass(**option), batch=batch)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 0.0}, {"resolution": 1.0}, {"resolution": 2}, {"every": 0}, {"every": 1.5},
        {"proxy_optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)},
        {"proxy": nn.Linear(1, 1), "proxy_optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)},
    ],
)  # fmt: skip
def test_options_out_of_range(options: Any) -> None:
    with pytest.raises(ValueError, match=r"^Expected"):
        ScoringPass(**options)


# ---------------------------------------------------------------------- compiled


class Counting:
    """A backend that counts what it compiles, and how often that runs."""

    def __init__(self) -> None:
        self.graphs, self.runs = 0, 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return graph(*args)

        return run


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    torch.compiler.reset()
    backend, original = Counting(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: original(function, backend=backend))
    return backend


def test_children_run_compiled_and_losses_are_seen(counting: Counting) -> None:
    net, memory = Net(spy=False), TraceMemory()
    plain = score(ScoringPass(), net)
    calls = {name: child.__dict__.get("_compiled_call_impl", "none") for name, child in net.named_modules()}
    for turn in range(3):
        with torch.no_grad():
            net.net[1].weight += 0.1 * (turn == 2)
        losses = score(ScoringPass(compile=True), net, memory=memory)
        assert turn == 2 or torch.allclose(losses, plain)
    torch.testing.assert_close(losses, score(ScoringPass(), net))
    assert counting.graphs == 1
    assert counting.runs == 3
    assert {name: child.__dict__.get("_compiled_call_impl", "none") for name, child in net.named_modules()} == calls
    copy.deepcopy(net)


def test_children_that_compute_the_loss_hide_it(counting: Counting) -> None:
    class Inner(nn.Linear):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(super().forward(x.mean((2, 3))), y)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner(3, 4)

        def training_step(self, batch: Any) -> Tensor:
            return self.inner(*batch)

    score(ScoringPass(), Outer())
    with pytest.raises(CaptureError, match="loss functions seen: none"):
        score(ScoringPass(compile=True), Outer())


def test_what_was_compiled_before_runs_as_it_was(counting: Counting) -> None:
    net = Net(spy=False)
    net.net = torch.compile(net.net)  # type: ignore
    torch.testing.assert_close(score(ScoringPass(compile=True), net), score(ScoringPass(), net))
    assert counting.graphs == 1


def test_steps_that_were_compiled_as_a_whole_are_refused() -> None:
    net = Net()
    net._compiler_ctx = {}
    with pytest.raises(ValueError, match="compiled as a whole"):
        score(ScoringPass(compile=True), net)


def test_parts_in_a_list_run_compiled(counting: Counting) -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 4)])

        def training_step(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.parts[1](self.parts[0](batch[0].mean((2, 3)))), batch[1])

    net = Listed()
    torch.testing.assert_close(score(ScoringPass(compile=True), net), score(ScoringPass(), net))
    assert counting.graphs == 2


def test_many_parts_run_compiled(counting: Counting) -> None:
    """More than the eight modules for which torch compiles one and the same code."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(3 + i, 4 + i) for i in range(12)])

        def training_step(self, batch: Any) -> Tensor:
            x = batch[0].mean((2, 3))
            for part in self.parts:
                x = part(x)
            return F.cross_entropy(x, batch[1])

    net = Deep()
    torch.testing.assert_close(score(ScoringPass(compile=True), net), score(ScoringPass(), net))
    assert counting.graphs == 12


# ---------------------------------------------------------------------- a proxy


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x.mean((2, 3))))


class WithLosses(Small):
    def example_losses(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], reduction="none")


class WithStep(Small):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize("kind", [Small, WithLosses, WithStep])
def test_a_proxy_gives_the_scores_and_nothing_is_left_in_it(kind: Any) -> None:
    proxy, net = kind(), Net()
    before = copy.deepcopy(proxy.state_dict())
    losses = score(ScoringPass(proxy=proxy), net)
    assert not notes  # the module itself does not run
    proxy.eval()
    torch.testing.assert_close(losses, F.cross_entropy(proxy(X), Y, reduction="none").detach())
    torch.testing.assert_close(proxy.state_dict(), before)


def test_loss_fn_gets_the_proxy() -> None:
    proxy = Small()
    losses = score(ScoringPass(proxy=proxy), loss_fn=lambda net, batch: net(batch[0]).sum(1))
    torch.testing.assert_close(losses, proxy.eval()(X).sum(1).detach())


@pytest.mark.parametrize("batch", [{"x": X, "y": Y}, (X, Y, Y), (X, X)])
def test_batches_that_a_plain_proxy_can_not_read(batch: Any) -> None:
    with pytest.raises(CaptureError, match="example_losses"):
        score(ScoringPass(proxy=Small()), batch=batch)
