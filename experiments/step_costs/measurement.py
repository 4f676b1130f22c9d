"""What selected steps take beside plain ones, of one network in one precision."""

from collections.abc import Sequence
from fractions import Fraction

import torch

from experiments.lightning_manners import quiet
from experiments.records import Row
from experiments.step_costs.arm import Arm, Part, Plan
from experiments.step_costs.block import FEWER, FORWARD, PLAIN, Block, Key
from experiments.step_costs.choices import chosen_in_turns
from experiments.step_costs.kinds import Kind, forward
from experiments.step_costs.learner import Learner
from experiments.step_costs.models import Subject
from experiments.step_costs.options import OPTIONS, Option, scoring_epoch
from experiments.step_costs.turns import Turns


def kept(keep: Fraction, rows: int) -> int:
    """How many of N are trained."""
    return max(1, round(float(keep) * rows))


class Group:
    """One network in one precision.

    Args:
        plan: how long things are measured.
        subject: the network.
        precision: "fp32" or "bf16", of training.
        options: names; those that don't apply are left out.
        compiled: whether training runs the compiled network.
    """

    def __init__(
        self, plan: Plan, subject: Subject, precision: str, options: Sequence[str], *, compiled: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.plan, self.subject, self.precision, self.compiled = plan, subject, precision, compiled
        self.names = [name for name in options if OPTIONS[name].applies(subject, precision)]
        others = [scoring_epoch(name) for name in self.names if OPTIONS[name].both]
        self.options = {name: OPTIONS[name] for name in (*self.names, *others)}
        self.net = subject.learner().net.to(plan.device)
        if compiled:
            self.net.compile()
        self.kinds = sorted({Kind(), *(o.kind for o in self.options.values() if o.kind is not None)}, key=repr)

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return sum(p.numel() for p in self.net.parameters())

    def rows(self, keeps: Sequence[Fraction]) -> list[Row]:
        """Measures everything, one kept fraction after the other."""
        return [row for keep in keeps for row in self._rows(keep)]

    def _rows(self, keep: Fraction) -> list[Row]:
        n, k = self.subject.rows, kept(keep, self.subject.rows)
        arms: dict[Key, Arm | Part] = {PLAIN: self._arm(n), FEWER: self._arm(k)}
        arms |= {name: self._arm(n, option, float(keep)) for name, option in self.options.items()}
        batch, bf16 = [column.to(self.plan.device) for column in self.subject.noise(n)], self.precision == "bf16"
        bare = self.subject.learner().to(self.plan.device)
        arms |= {kind: Part(self.plan, kind.bare(self.subject, bare, batch, bf16=bf16)) for kind in self.kinds}
        arms[FORWARD] = Part(self.plan, forward(bare, batch, bf16=bf16))
        with quiet(), chosen_in_turns(self.plan.steps):
            Turns(arms).run()
        seconds = {name: arm.seconds for name, arm in arms.items()}
        block = Block(seconds, {name: arm.bytes for name, arm in arms.items() if isinstance(arm, Arm)}, k / n)
        known = {
            "device": self.plan.device, "model": self.subject.name, "precision": self.precision,
            "compiled": str(self.compiled).lower(), "keep": str(keep), "n": str(n), "k": str(k),
            "parameters": str(self.parameters),
        }  # fmt: skip
        spent = {"rounds": str(self.plan.rounds), "steps": str(self.plan.steps)}
        return [{**known, **row, **spent} for row in block.rows(self.names)]

    def _arm(self, rows: int, option: Option | None = None, keep: float = 1.0) -> Arm:
        learner = Learner(self.net, adam=self.subject.adam)
        return Arm(self.plan, self.subject, learner, self.precision, rows, option, keep)
