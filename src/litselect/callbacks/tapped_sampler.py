"""A batch sampler that is listened to."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from litselect.callbacks.told_length import told_length

if TYPE_CHECKING:
    from jaxtyping import Int

    from litselect.callbacks.doubts import Doubts
    from litselect.selectors import Selection


@dataclass(frozen=True)
class Delivery:
    """What is known of a batch before it is loaded.

    Args:
        ids: of all candidates, ``[N]`` int64 on the CPU.
        bounds: the least and the greatest of them.
        selection: which of them are chosen, where that was decided.
    """

    ids: Int[Tensor, " batch"]
    bounds: tuple[int, int]
    selection: Selection | None = None

    @property
    def sent(self) -> Int[Tensor, " sent"] | None:
        """The places that are sent for, None for all. No loader delivers a batch of none: one stands in for them."""
        if self.selection is None:
            return None
        return self.selection.indices if len(self.selection) else torch.zeros(1, dtype=torch.int64)

    @property
    def rows(self) -> int:
        """How many rows arrive."""
        return len(self.ids if self.sent is None else self.sent)


def bounds(ids: Int[Tensor, " batch"]) -> tuple[int, int]:
    """The least and the greatest of ids on the CPU, 0 if there are none. By numpy: no device is asked."""
    values = ids.numpy()
    return (int(values.min()), int(values.max())) if len(values) else (0, 0)


_AHEAD: Final = 32  # batches that are decided on in a row: each takes a fraction of the time it takes between two steps

REMEDY: Final = (
    "Let the batch hold the ids of its examples (their positions in the data set), and pass "
    "`ids=lambda batch: ...`, which finds them there."
)

Decide = Callable[[int, Mapping[int, Delivery]], "Iterable[Selection | None]"]
"""Called with the number of batches in the epoch and with several of them, by place; which rows of each are to be
loaded, None for all. What it raises is raised when the batch is sent for that was next."""


def load_all(length: int, batches: Mapping[int, Delivery]) -> Iterable[None]:
    """Nothing is decided before a batch is loaded."""
    return [None] * len(batches)


Admitted = Callable[[Tensor], "Tensor | None"]
"""Called with the ids of a batch; the places of those that are candidates at all, None for all."""


class TappedSampler:
    """A batch sampler whose index lists are noted, and thinned out, on their way to the loader.

    Its length and its other attributes are those of the sampler. Iterating it has no side effect: every iterator keeps
    its own notes.

    Args:
        sampler: the loader's batch sampler.
        decide: see `Decide`.
        admitted: see `Admitted`.
        doubts: told where there are no ids; if they let that pass, the batch is sent for without a note.
        ahead: asked whether lists may be read before they are sent for.
    """

    def __init__(
        self, sampler: Any, decide: Decide, admitted: Admitted, doubts: Doubts, ahead: Callable[[], bool]
    ) -> None:
        self.tapped = sampler
        self._decide, self._admitted, self._doubts, self._ahead = decide, admitted, doubts, ahead

    def __iter__(self) -> Iterator[Any]:
        if self._doubts.settled:
            return iter(self.tapped)
        length = told_length(self) or 0
        return TappedIterator(iter(self.tapped), length, self._decide, self._admitted, self._doubts, self._ahead)

    def __len__(self) -> int:
        return len(self.tapped)

    def __getattr__(self, name: str) -> Any:
        if name == "tapped":  # a copy in the making
            raise AttributeError(name)
        return getattr(self.tapped, name)  # batch_size, drop_last, sampler (whose epoch Lightning sets)


class TappedIterator:
    """One run through a `TappedSampler`.

    Can be set to a place (as stateful loaders do), which repeats no note.

    Args:
        batches: lists of indices.
        length: how many.
        decide: see `Decide`.
        admitted: see `TappedSampler`.
        doubts: see `TappedSampler`.
        ahead: see `TappedSampler`.

    Attributes:
        first: the place of the first batch that is delivered.
        deliveries: notes by place; whoever uses one removes it.
    """

    def __init__(
        self,
        batches: Iterator[Any],
        length: int,
        decide: Decide,
        admitted: Admitted,
        doubts: Doubts,
        ahead: Callable[[], bool],
    ) -> None:
        self.first = 0
        self.deliveries: dict[int, Delivery] = {}
        self._batches: Any = batches
        self._length, self._ahead = length, ahead
        self._decide, self._admitted, self._doubts = decide, admitted, doubts
        self._ready: deque[tuple[Any, Delivery | None] | Exception] = deque()  # what is sent for next
        self._place = 0

    def __iter__(self) -> TappedIterator:
        return self

    def __next__(self) -> Any:
        if not self._ready:
            self._read()
        ready = self._ready.popleft()
        if isinstance(ready, Exception):
            raise ready
        sent, delivery = ready
        if delivery is not None:
            self.deliveries[self._place] = delivery
        self._place += 1
        return sent

    def _read(self) -> None:
        """Make ready what comes next. The last list is read when it is sent for: then samplers draw once more."""
        several = max(1, min(_AHEAD, self._length - 1 - self._place)) if self._ahead() else 1
        try:
            self._ready.extend(self._decided(several))
        except Exception as error:
            self._ready.append(error)  # to be raised when its turn comes
        if not self._ready:
            raise StopIteration

    def _decided(self, several: int) -> Iterator[tuple[Any, Delivery | None] | Exception]:
        """What is sent for of the next lists, and the notes of them; last, why no more could be read."""
        lists: list[tuple[Any, Delivery | None]] = []
        failed: list[Exception] = []
        for sent in islice(self._batches, several):
            try:
                lists.append(self._noted(sent))
            except Exception as error:
                failed.append(error)
                break
        notes = {place: note for place, (_, note) in enumerate(lists, self._place) if note is not None}
        selections = iter(self._decide(self._length, notes))
        for sent, note in lists:
            if note is None:
                yield sent, None
                continue
            delivery = replace(note, selection=next(selections))
            yield sent if delivery.sent is None else _picked(sent, delivery.sent), delivery
        yield from failed

    def _noted(self, sent: Any) -> tuple[Any, Delivery | None]:
        """A list without those who are no candidates, and the note of it."""
        try:
            if not _has_places(sent):
                sent = list(sent)
            ids = cast("Any", torch).from_numpy(np.fromiter(map(operator.index, sent), np.int64, len(sent)))
        except (TypeError, OverflowError):
            self._doubts.refuse(
                ValueError(
                    "The ids of examples are the integers that a batch sampler sends for, but it sent "
                    f"{sent!r:.80}. {REMEDY}"
                )
            )
            return sent, None
        if (places := self._admitted(ids)) is not None:
            sent, ids = _picked(sent, places), ids[places]
        return sent, Delivery(ids, bounds(ids))

    def state_dict(self) -> dict[str, Any]:
        """The place, and the sampler's own state where it has one."""
        own = getattr(self._batches, "state_dict", None)
        return {"place": self._place, "batches": None if own is None else own()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place of `state`."""
        self._place = self.first = cast("int", state["place"])
        self._ready.clear()
        if state["batches"] is not None:
            self._batches.load_state_dict(state["batches"])
            return
        for _ in range(self._place):
            next(self._batches, None)


def _has_places(sent: Any) -> bool:
    """Whether what a sampler sent can be read by place: an iterator is read once, a set in its order."""
    return isinstance(sent, (Sequence, Tensor, np.ndarray))


def _picked(sent: Any, places: Tensor) -> Any:
    """Some of what a sampler sent, as it sent it: a list, a tuple, a tensor or an array."""
    if isinstance(sent, (Tensor, np.ndarray)):
        return sent[places if isinstance(sent, Tensor) else places.numpy()]
    picked = [sent[place] for place in cast("list[int]", cast("Any", places).tolist())]
    return tuple(picked) if isinstance(sent, tuple) else picked
