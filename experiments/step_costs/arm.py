"""One of the things that take turns: a training, or a part of a step by itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

from experiments.step_costs.clock import clock
from experiments.step_costs.fit import Columns, fit
from experiments.step_costs.learner import Learner
from experiments.step_costs.memory import watch
from experiments.step_costs.models import Subject
from experiments.step_costs.options import Option, selection
from experiments.step_costs.step_times import StepTimes
from experiments.step_costs.turns import Pause


@dataclass(frozen=True)
class Plan:
    """How long things are measured.

    Attributes:
        device: "cpu" or "cuda".
        rounds: in each of which everything has its turn.
        steps: in a turn that are timed, after one that is not.
        discard: steps before the first turn.
        memory: whether the peak of the memory is measured.
    """

    device: str
    rounds: int
    steps: int
    discard: int
    memory: bool


@dataclass
class Arm:
    """What a training takes.

    Attributes:
        plan: how long.
        subject: the network.
        learner: in training; shares its network with those of other arms, for costs do not depend on weights.
        precision: "fp32" or "bf16".
        rows: of a batch.
        option: what selects, or None.
        keep: which fraction.
        seconds: of a step, by round.
        bytes: at the peak of a step, 0 where it was not watched.
    """

    plan: Plan
    subject: Subject
    learner: Learner
    precision: str
    rows: int
    option: Option | None = None
    keep: float = 1.0
    seconds: list[float] = field(default_factory=list)
    bytes: int = 0

    def __call__(self, pause: Pause, end: Pause) -> None:
        """Trains, pausing between turns."""
        plan, option = self.plan, self.option
        cycle = option.cycle if option else 1
        discard = max(plan.discard, option.settles if option else 0)
        counted = plan.device == "cpu"  # by a mode under which nothing is compiled
        watches = plan.memory and not (counted and option and option.kind and option.kind.compiled)
        times = StepTimes(
            clock(plan.device),
            discard=discard,
            watched=cycle,
            peak=watch(plan.device) if watches else None,
            turn=plan.steps,
            pause=pause,
            end=end,
        )
        batches = discard + plan.rounds * (plan.steps + 1) + cycle
        selects, epochs = selection(option, self.keep, self.subject)
        data = Columns(*self.subject.noise(self.rows * batches))
        callbacks = [times, *selects]
        fit(self.learner, data, self.rows, callbacks, device=plan.device, precision=self.precision, epochs=epochs)
        self.seconds, self.bytes = _by_turn(times.seconds, plan.steps), times.bytes


@dataclass
class Part:
    """What a part of a step takes by itself.

    Attributes:
        plan: how long.
        call: the part.
        seconds: of a call, by round.
    """

    plan: Plan
    call: Callable[[], object]
    seconds: list[float] = field(default_factory=list)

    def __call__(self, pause: Pause, end: Pause) -> None:
        """Calls it, pausing between turns."""
        now, spent = clock(self.plan.device), list[float]()
        for _ in range(self.plan.discard):
            self.call()
        for _ in range(self.plan.rounds):
            pause()
            self.call()
            for _ in range(self.plan.steps):
                before = now()
                self.call()
                spent.append(now() - before)
        self.seconds = _by_turn(spent, self.plan.steps)
        end()


def _by_turn(seconds: list[float], steps: int) -> list[float]:
    return [fmean(seconds[at : at + steps]) for at in range(0, len(seconds) - steps + 1, steps)]
