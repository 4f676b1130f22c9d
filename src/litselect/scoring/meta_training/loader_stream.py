"""The batches of a loader, without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from litselect.scoring.meta_gradients.private_streams import PrivateStreams
from litselect.scoring.random_streams import current_streams
from litselect.scoring.raters.rater_artifact import moved

_END: Final = object()


class LoaderStream:
    """Goes through a loader again and again; can go on at any batch.

    Shuffling and augmentation in the main process draw from streams of its own, so the run around it draws what it
    would have drawn anyway. Going on replays the batches of the present pass, which loads them again; it is exact
    unless workers that are persistent draw augmentations, since nobody can read where their streams stand.

    Args:
        loader: any iterable of batches that can be iterated anew.
        seed: of the streams.
    """

    def __init__(self, loader: Any, seed: int) -> None:
        self._loader, self._streams = loader, PrivateStreams(seed)
        self._generators = _generators(loader)
        self._batches: Iterator[Any] | None = None
        self._begin: dict[str, Any] = {}
        self._taken, self._passes = 0, 0

    def next(self, device: torch.device) -> Any:
        """The next batch, on `device`.

        Raises:
            ValueError: if there is no batch in a whole pass.
        """
        with self._streams:
            batches = self._start() if self._batches is None else self._batches
            batch = next(batches, _END)
            if batch is _END:
                self._passes += 1
                batch = next(self._start(), _END)
            if batch is _END:
                raise ValueError(
                    "A loader must have at least one batch each time it is iterated, but none was received in a whole "
                    "pass. Look at its data set, batch_size and drop_last; an iterator, which ends for good, is none."
                )
            self._taken += 1
        return moved(batch, device)

    def _start(self) -> Iterator[Any]:
        self._begin = {**current_streams(torch.device("cpu")), "generators": [g.get_state() for g in self._generators]}
        if callable(set_epoch := getattr(getattr(self._loader, "sampler", None), "set_epoch", None)):
            set_epoch(self._passes)
        batches: Iterator[Any] = iter(self._loader)
        self._batches, self._taken = batches, 0
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Where the present pass began, and how many batches were taken since."""
        now = [g.get_state() for g in self._generators]
        return {"begin": self._begin, "taken": self._taken, "passes": self._passes, "generators": now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the batch after those that were taken."""
        self._passes, self._batches = state["passes"], None
        if not state["begin"]:
            return
        streams = dict(state["begin"])
        for generator, saved in zip(self._generators, streams.pop("generators"), strict=True):
            generator.set_state(saved)
        self._streams.states = streams
        with self._streams:
            batches = self._start()
            for _ in range(state["taken"]):
                next(batches)
                self._taken += 1
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.set_state(saved)  # another loader may draw from it, too


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators from which a loader shuffles, if it was given any."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    owners = [loader, sampler, batches, getattr(batches, "sampler", None)]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
