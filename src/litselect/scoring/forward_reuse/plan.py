"""What a replay does at each operation, and where the rows lie in what the recording kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from litselect.scoring.forward_reuse.probe import Edges, Probe, Result, storage_of
from litselect.scoring.forward_reuse.recorder import Place, Recorder
from litselect.scoring.forward_reuse.row_block import RowBlock
from litselect.scoring.forward_reuse.row_layout import RowLayout, Sighting, find_layouts
from litselect.scoring.forward_reuse.unsupported import Unsupported
from litselect.scoring.rows import take_rows

FRESH, VIEW, SAME, SEVERAL = range(4)
Call = tuple[Any, int, Any]
"""An operation, what to do in its place, and what for."""


@dataclass(frozen=True)
class Plan:
    """For one number of candidates, one of chosen rows and one sequence of operations.

    Args:
        n: candidates.
        k: chosen rows.
        calls: of each operation: makes one new tensor, looks at memory, returns an argument, or returns several.
        fillable: which results lie in memory that is the forward's own, in the order of operations.
        saved: where the rows lie in what autograd saved.
        blocks: how the rows of what autograd saved are copied.
        shared: which of what autograd saved has one block of rows (under one number), and how many times it is saved.
        results: where they lie in results that were held at the first loss.
    """

    n: int
    k: int
    calls: list[Call]
    fillable: list[tuple[Place, ...]]
    saved: list[RowLayout | None]
    blocks: list[RowBlock | None]
    shared: list[tuple[int, int]]
    results: dict[Place, RowLayout | Unsupported | None]

    @classmethod
    def make(
        cls,
        recorder: Recorder,
        step: Callable[[Any], Any],
        batch: Any,
        n: int,
        rows: Tensor,
        edges: Edges,
        restore: Callable[[], None],
    ) -> Plan:
        """Run `step` on `rows` of `batch`, twice.

        Args:
            recorder: of the forward of `batch`.
            step: the training step.
            batch: N examples.
            n: N.
            rows: ``[k]``.
            edges: where the network's part may end, too.
            restore: undoes what a run left.

        Raises:
            Unsupported: if k rows are computed otherwise than N.
        """
        replaced, spare = _replacement(rows, n)
        one = other = None
        try:
            one = Probe.run(step, take_rows(batch, rows, n), edges)
            restore()
            cls._compare(recorder, one, n, len(rows))
            other = Probe.run(step, take_rows(batch, spare, n), edges)
            if other.ops != one.ops or len(other.saved) != len(one.saved):
                raise Unsupported("the operations of the forward depend on the content of the rows")
            return cls._from_probes(recorder, one, other, n, len(rows), replaced)
        finally:
            restore()
            for probe in (one, other):
                if probe is not None:
                    probe.free()

    @classmethod
    def _from_probes(cls, recorder: Recorder, one: Probe, other: Probe, n: int, k: int, replaced: int) -> Plan:
        fresh = one.fresh()
        places = [place for place in recorder.alive if fresh[place[0]][place[1]]]
        pairs = zip(recorder.saved, one.saved, other.saved, strict=True)
        sightings = [Sighting(tuple(big.shape), small, changed) for big, small, changed in pairs]
        sightings += [Sighting(tuple(recorder.alive[i, j].shape), one.held[i][j], other.held[i][j]) for i, j in places]
        layouts = find_layouts(sightings, n, k, replaced)
        saved: list[RowLayout | None] = []
        for layout in layouts[: len(recorder.saved)]:
            if isinstance(layout, Unsupported):
                raise layout
            saved.append(layout)
        calls = [_call(*found) for found in zip(one.ops, one.results, one.single, strict=True)]
        fillable = [
            tuple((i, j) for j, is_fresh in enumerate(fresh[i]) if is_fresh) if call[1] != SAME else ()
            for i, call in enumerate(calls)
        ]
        results = dict(zip(places, layouts[len(saved) :], strict=True))
        blocks = [
            None if layout is None else RowBlock.of(tensor, layout, n, k)
            for tensor, layout in zip(recorder.saved, saved, strict=True)
        ]
        return cls(n, k, calls, fillable, saved, blocks, _shared(recorder.saved, blocks), results)

    @staticmethod
    def _compare(recorder: Recorder, probe: Probe, n: int, k: int) -> None:
        for i, (big, small) in enumerate(zip(recorder.ops, probe.ops, strict=False)):
            if big is not small:
                raise Unsupported(f"operation {i} is {big} with {n} rows, but {small} with {k}")
        if len(recorder.ops) != len(probe.ops) or len(recorder.saved) != len(probe.saved):
            raise Unsupported(
                f"the forward makes {len(recorder.ops)} operations with {n} rows, {len(probe.ops)} with {k}"
            )


def _replacement(rows: Tensor, n: int) -> tuple[int, Tensor]:
    """One of `rows` (neither the first nor the last, if possible), and the rows with another in its place."""
    unused = torch.ones(n, dtype=torch.bool)
    unused[rows.cpu()] = False
    place, other = len(rows) // 2, rows.clone()
    other[place] = int(unused.nonzero()[0])
    return place, other


def _call(func: Any, results: list[Result] | None, single: bool) -> Call:
    if results is None:
        return func, VIEW, None
    if single and results[0].make is not None:
        return func, FRESH, results[0].make
    if single and isinstance(results[0].source, int):
        return func, SAME, results[0].source
    return func, SEVERAL, (single, results)


def _shared(saved: list[Tensor], blocks: list[RowBlock | None]) -> list[tuple[int, int]]:
    """Which tensors are views of one block of rows, under the number of the first, and how often that occurs."""
    keys = [
        i if block is None else (storage_of(t), t.storage_offset(), t.dtype, block.outer, block.inner)
        for i, (t, block) in enumerate(zip(saved, blocks, strict=True))
    ]
    first: dict[Any, int] = {}
    numbers = [first.setdefault(key, i) for i, key in enumerate(keys)]
    return [(number, numbers.count(number)) for number in numbers]
