"""What a meta-step takes beside a plain training step."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.look_aheads.live_memory import peak
from experiments.look_aheads.problems import Convolutional, losses
from experiments.models.mlp import Mlp
from litselect.scoring.meta_gradients import Adam, Estimator, InnerState, LookAhead, LossObjective, Window


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        network: "CNN" or "MLP".
        width: of its layers.
        steps: T.
        rows: of a batch.
    """

    network: str
    width: int
    steps: int
    rows: int

    def module(self) -> nn.Module:
        """The inner model: images of 16 x 16 pixels for the CNN, of 8 x 8 for the MLP."""
        if self.network == "CNN":
            return Convolutional(nn.BatchNorm2d, width=self.width)
        return Mlp(1, 8, 10, width=self.width, depth=2, dropout=0.0)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """T + 1 batches of noise: what is measured doesn't depend on the values."""
        side = 16 if self.network == "CNN" else 8
        return [(torch.randn(self.rows, 1, side, side), torch.randint(10, (self.rows,))) for _ in range(self.steps + 1)]

    def estimators(self) -> list[Estimator]:
        """Those that there are for this T."""
        return [name for name in get_args(Estimator) if name != "auto" and (name != "jvp" or self.steps == 1)]

    def plain(self) -> Callable[[], object]:
        """A training step with torch.optim.Adam."""
        torch.manual_seed(0)
        module = self.module()
        optimizer, ((images, labels), *_) = torch.optim.Adam(module.parameters()), self.batches()

        def step() -> None:
            F.cross_entropy(module(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def meta(self, estimator: Estimator) -> Callable[[], object]:
        """A window, and the gradient of ratings; the rater is a number for each example."""
        torch.manual_seed(0)
        objective, optimizer = LossObjective(self.module(), losses), Adam(lr=1e-3)
        parameters, buffers = objective.begin(self.module())
        start = InnerState(parameters, buffers, optimizer.begin(parameters))
        *inner, heldout = self.batches()
        rating = torch.zeros(self.rows, requires_grad=True)
        window = Window(start, inner, heldout, lambda *_: rating)
        ahead = LookAhead(objective, optimizer, estimator)

        return lambda: ahead(window).backward()


@dataclass(frozen=True)
class Cost:
    """What an estimator takes.

    Attributes:
        case: of which.
        estimator: which.
        parameters: of the inner model.
        memory: bytes of tensors at the peak, beyond the model's own.
        plain_memory: of a plain step.
        quartiles: of the time in plain steps, each measured beside one: 25 %, 50 %, 75 %.
    """

    case: Case
    estimator: Estimator
    parameters: int
    memory: int
    plain_memory: int
    quartiles: list[float]


def measure(case: Case, rounds: int) -> list[Cost]:
    """All estimators, in turn with plain steps; processor time, of which others on the machine take none."""
    plain = case.plain()
    calls: dict[Estimator, Callable[[], object]] = {estimator: case.meta(estimator) for estimator in case.estimators()}
    for call in (plain, *calls.values()):  # makes moments, and finds out what the operators of the model can do
        call()
    ratios: dict[Estimator, list[float]] = {estimator: [] for estimator in calls}
    for _ in range(rounds):
        before = _seconds(plain)
        for estimator, call in calls.items():
            ratios[estimator].append(_seconds(call) / before)
    count, least = sum(p.numel() for p in case.module().parameters()), peak(plain)
    quartiles = {name: statistics.quantiles(values, n=4, method="inclusive") for name, values in ratios.items()}
    return [Cost(case, name, count, peak(calls[name]), least, quartiles[name]) for name in case.estimators()]


def _seconds(call: Callable[[], object], at_least: float = 0.05) -> float:
    """Mean processor seconds of a call, repeated until there is something to measure."""
    start, calls = process_time(), 0
    while True:
        call()
        calls += 1
        if (spent := process_time() - start) >= at_least:
            return spent / calls


def resident(case: Case, estimator: Estimator | None) -> int:
    """By how many bytes a step (plain, for None) raises the resident memory of this process; a fresh one, on Linux."""
    torch.set_num_threads(1)
    small = Case(case.network, 4, case.steps, 2)
    for one in (small, case):  # the first call takes what stays: libraries
        call = one.plain() if estimator is None else one.meta(estimator)
        if one is small or estimator is None:
            call()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
