"""The ways to choose rows whose cost is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pytorch_lightning import Callback

from experiments.step_costs.kinds import Kind
from experiments.step_costs.models import Subject
from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.scoring import ScoringPass
from litselect.selectors import RandomSubset

Make = Callable[[float, Subject], Callback]


@dataclass(frozen=True)
class Option:
    """One way to choose rows.

    Attributes:
        what: the setting, as the page prints it.
        make: the callback for a kept fraction, selecting from the first batch on, or from the second epoch.
        kind: of the scoring pass, if one is made.
        share: of the batches that are scored.
        cycle: after how many batches the work repeats.
        epochs: of a fit, of which the last one is timed.
        both: the name of the mean of that epoch and the one before, where the work alternates between epochs.
        floor: how the floor is put together, see `experiments.step_costs.floors`.
        images: whether it is for images alone.
        resizes: whether it needs a network that takes images of any size.
        fp32: whether it is for training in fp32 alone: in bf16 it would be another option.
        remembers: whether scores are those of a ledger.
        settles: after how many batches it does what it goes on to do.
    """

    what: str
    make: Make
    kind: Kind | None = None
    share: float = 1.0
    cycle: int = 1
    epochs: int = 1
    both: str | None = None
    floor: Literal["parts", "reuse", "cheapest"] = "parts"
    images: bool = False
    resizes: bool = False
    fp32: bool = False
    remembers: bool = False
    settles: int = 0

    @property
    def fresh(self) -> bool:
        """Whether every batch is scored by a forward pass."""
        return self.floor != "parts" or (self.kind is not None and self.share == 1)

    def applies(self, subject: Subject, precision: str) -> bool:
        """Whether it can be measured on a network."""
        return (
            not (self.images and subject.text)
            and not (self.resizes and not subject.resizable)
            and not (self.fp32 and precision != "fp32")
        )


def _scored(**settings: Any) -> Make:
    """Selective-Backprop with a scoring pass."""
    return lambda keep, _: SelectiveBackprop(keep, warmup=0, scoring=ScoringPass(**settings))


def _plan(**settings: Any) -> Make:
    """Selective-Backprop with settings of the callback."""
    return lambda keep, _: SelectiveBackprop(keep, **{"warmup": 0, **settings})


def _proxied(keep: float, subject: Subject) -> Callback:
    return _scored(proxy=subject.proxy())(keep, subject)


def _reused(keep: float, subject: Subject) -> Callback:
    return _plan(reuse_forward="batchnorm" if subject.batchnorm else True)(keep, subject)


def scoring_epoch(name: str) -> str:
    """The name of the other epoch of an option that has two."""
    return f"{name}_scoring"


_LAST = torch.channels_last
OPTIONS: dict[str, Option] = {
    "full": Option("`ScoringPass()`", _scored(), Kind()),
    "bf16": Option('`ScoringPass(precision="bf16")`', _scored(precision="bf16"), Kind(bf16=True), fp32=True),
    "channels_last": Option(
        "`ScoringPass(memory_format=torch.channels_last)`",
        _scored(memory_format=_LAST),
        Kind(channels_last=True),
        images=True,
        resizes=True,
    ),
    "half_resolution": Option(
        "`ScoringPass(resolution=0.5)`", _scored(resolution=0.5), Kind(resolution=0.5), images=True, resizes=True
    ),
    "half_resolution_bf16": Option(
        '`ScoringPass(resolution=0.5, precision="bf16")`',
        _scored(resolution=0.5, precision="bf16"),
        Kind(resolution=0.5, bf16=True),
        images=True,
        resizes=True,
        fp32=True,
    ),
    "chunks": Option("`ScoringPass(chunk=32)`", _scored(chunk=32), Kind()),
    "compiled": Option("`ScoringPass(compile=True)`", _scored(compile=True), Kind(compiled=True)),
    "proxy": Option("`ScoringPass(proxy=...)`", _proxied, Kind(proxy=True)),
    "every_2": Option("`ScoringPass(every=2)`", _scored(every=2), Kind(), share=0.5, cycle=2),
    "ledger": Option('`scoring="ledger"`', _plan(scoring="ledger", warmup=1), epochs=2, remembers=True),
    "stale": Option(
        "`rescore_every=2`, its stale epoch", _plan(rescore_every=2), epochs=2, both="stale_both", remembers=True
    ),
    "random": Option("`RandomSubset`", lambda keep, _: ExampleSelection(RandomSubset(keep))),
    "reuse": Option("`reuse_forward=True`", _reused, floor="reuse"),
    "auto": Option('`scoring="auto"`', _plan(scoring="auto"), floor="cheapest", settles=14),
}
"""By the name on the command line."""

OPTIONS |= {
    scoring_epoch("stale"): Option("`rescore_every=2`, its scoring epoch", _plan(rescore_every=2), Kind()),
    "stale_both": Option("`rescore_every=2`, mean of both epochs", _plan(rescore_every=2), Kind(), share=0.5),
}  # measured beside `stale`


def selection(option: Option | None, keep: float, subject: Subject) -> tuple[list[Callback], int]:
    """The callbacks and the epochs of a training: none and one where it is plain."""
    return ([], 1) if option is None else ([option.make(keep, subject)], option.epochs)
