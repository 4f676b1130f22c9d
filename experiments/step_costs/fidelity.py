"""Whether cheap scores choose what full ones choose, in networks that have learned something."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.data.images import Images
from experiments.lightning_manners import quiet
from experiments.rating_text.corpus import sequences, standard_library
from experiments.records import Row
from experiments.step_costs.fit import Columns, fit
from experiments.step_costs.learner import Learner
from experiments.step_costs.measurement import kept
from experiments.step_costs.models import CHANNELS, SIDE, Subject, split
from experiments.step_costs.options import OPTIONS
from litselect.callbacks.fidelity import overlap, spearman
from litselect.scoring import ScoringPass

Trained = TypeVar("Trained", bound=Learner)


def pictures(images: Images, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` real images, resized, in three channels, each pixel about zero."""
    pixels = F.interpolate(images.pixels[:count].float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return (pixels.expand(-1, CHANNELS, -1, -1).contiguous() - 0.5) / 0.5, images.labels[:count]


def text(length: int, count: int) -> tuple[Tensor, Tensor]:
    """Rows of the documentation of the standard library, drawn with a fixed seed."""
    rows = sequences([module.documentation for module in standard_library()], length + 1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return split(rows[order[:count]])


def measure(
    subject: Subject,
    data: tuple[Tensor, Tensor],
    options: Sequence[str],
    keeps: Sequence[Fraction],
    *,
    epochs: int,
    device: str,
) -> list[Row]:
    """A row for each option that computes or remembers scores: overlap with the full choice, and rank correlation.

    Args:
        subject: the network.
        data: real rows, on which it is trained in fp32, and which are then scored in batches of N.
        options: names.
        keeps: kept fractions, over which overlaps are given.
        epochs: of training; an even number, so that the last one is a stale one.
        device: "cpu" or "cuda".
    """
    learner = _trained(_fresh(subject), subject.rows, data, epochs, device)
    full = _scores(ScoringPass(), learner, data, subject.rows, device)
    rows: list[Row] = []
    for name in options:
        option = OPTIONS[name]
        if not option.applies(subject, "fp32") or name == "full" or (option.kind is None and not option.remembers):
            continue
        if option.share < 1:  # skips passes; those that it makes are full ones
            continue
        known = subject
        if option.kind is not None and option.kind.proxy:
            known = replace(subject, ready=_trained(subject.proxy(), subject.rows, data, epochs, device))
        callback: Any = option.make(float(keeps[0]), known)
        if option.remembers:
            own = _trained(_fresh(subject), subject.rows, data, epochs, device, callback)
            exact = _scores(ScoringPass(), own, data, subject.rows, device)
            cheap = callback.ledger.loss.cpu()[: len(exact)]
        else:
            exact, cheap = full, _scores(callback.scoring, learner, data, subject.rows, device)
        rows += _compared(subject, name, exact, cheap, keeps)
    return rows


def _fresh(subject: Subject) -> Learner:
    torch.manual_seed(0)
    return subject.learner()


def _trained(
    learner: Trained, rows: int, data: tuple[Tensor, Tensor], epochs: int, device: str, selection: Any = None
) -> Trained:
    torch.manual_seed(0)
    callbacks = [] if selection is None else [selection]
    with quiet():
        fit(learner, Columns(*data), rows, callbacks, device=device, precision="fp32", epochs=epochs, shuffle=True)
    return learner


def _scores(scoring: ScoringPass, learner: Learner, data: tuple[Tensor, Tensor], rows: int, device: str) -> Tensor:
    """The losses of whole batches."""
    learner.to(device)
    found: list[Tensor] = []
    for at in range(0, len(data[0]) - rows + 1, rows):
        batch = [column[at : at + rows].to(device) for column in data]
        losses = scoring(learner, batch, rows, step=learner.loss)
        assert losses is not None
        found.append(losses.cpu())
    return torch.cat(found)


def _compared(subject: Subject, name: str, exact: Tensor, cheap: Tensor, keeps: Sequence[Fraction]) -> list[Row]:
    pairs = list(zip(exact.split(subject.rows), cheap.split(subject.rows), strict=True))
    correlation = fmean(spearman(one, other) for one, other in pairs)
    return [
        {
            "model": subject.name, "option": name, "keep": str(keep),
            "overlap": f"{fmean(overlap(*pair, kept(keep, subject.rows)) for pair in pairs):.4f}",
            "spearman": f"{correlation:.4f}",
        }
        for keep in keeps
    ]  # fmt: skip
