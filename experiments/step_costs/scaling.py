"""How the cost of a selected step grows: with the batch, the network, the history of losses."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import median
from typing import Any

import torch

from experiments.records import Row
from experiments.step_costs.arm import Plan
from experiments.step_costs.clock import clock
from experiments.step_costs.measurement import Group
from experiments.step_costs.models import Subject
from litselect.selectors import LossPercentile

CALLS = 5  # of a selector in each round


def by_subject(
    plan: Plan, subjects: Mapping[int, Subject], options: Sequence[str], keep: Fraction, series: str
) -> list[Row]:
    """The rows of a group for each subject.

    Args:
        plan: how long.
        subjects: by what they differ in.
        options: names.
        keep: kept fraction.
        series: the name of that in which they differ.
    """
    rows: list[Row] = []
    for size, subject in subjects.items():
        for row in Group(plan, subject, "fp32", options).rows([keep]):
            own = (float(row["measured"]) - float(row["floor"])) * float(row["plain_ms"])
            rows.append({"series": series, "size": str(size), **row, "own_ms": f"{own:.4f}"})
    return rows


def by_history(lengths: Sequence[int], rows: int, rounds: int, device: str) -> list[Row]:
    """Milliseconds of one choice by `LossPercentile` with a full history, lengths taking turns."""
    now, found = clock(device), {length: list[float]() for length in lengths}
    selectors = {length: LossPercentile(1 / 3, history=length, seed=0) for length in lengths}
    losses: list[Any] = [torch.rand(rows, device=device) for _ in range(CALLS)]
    for length, selector in selectors.items():
        for _ in range(0, length, 1 << 16):
            selector(losses=torch.rand(min(length, 1 << 16), device=device))
    for _ in range(rounds):
        for length, selector in selectors.items():
            start = now()
            for batch in losses:
                selector(losses=batch)
            found[length].append((now() - start) / CALLS)
    return [
        {"series": "history", "size": str(length), "ms": f"{1e3 * median(seconds):.4f}"}
        for length, seconds in found.items()
    ]


def mlp_width(parameters: int) -> int:
    """Of two hidden layers, so that an MLP for images of this study has about so many parameters in all."""
    inputs = 3 * 24 * 24
    return max(1, round((((inputs + 12) ** 2 + 4 * parameters) ** 0.5 - inputs - 12) / 2))


def mlps(rows: Sequence[int], width: int) -> dict[int, Subject]:
    """One network, batches of several sizes."""
    return {n: Subject("mlp", n, {"width": width, "depth": 2}) for n in rows}


def mlps_by_size(parameters: Sequence[int], rows: int) -> dict[int, Subject]:
    """Networks of several sizes."""
    return {int(count): Subject("mlp", rows, {"width": mlp_width(count), "depth": 2}) for count in parameters}
