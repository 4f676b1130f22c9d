"""The batches of a loader, without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from litselect.scoring.meta_gradients.private_streams import PrivateStreams, current_states
from litselect.scoring.rows import count_rows, map_columns


class LoaderStream:
    """Goes through a loader again and again; can go on at any batch.

    Shuffling and augmentation in the main process draw from streams of its own, so the run around it draws what it
    would have drawn anyway. Going on replays the batches of the present pass, which loads them again.

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
            if self._batches is None:
                self._start()
            assert self._batches is not None
            batch = next(self._batches, None)
            if batch is None:
                if not self._taken:
                    raise ValueError(
                        "A loader must have at least one batch, but none was received in a whole pass. Look at its "
                        "data set, batch_size and drop_last."
                    )
                self._passes += 1
                self._start()
                batch = next(self._batches)
            self._taken += 1
        return map_columns(batch, count_rows(batch), lambda c: c.to(device) if isinstance(c, Tensor) else c)

    def _start(self) -> None:
        self._begin = {**current_states(), "generators": [g.get_state() for g in self._generators]}
        if callable(set_epoch := getattr(getattr(self._loader, "sampler", None), "set_epoch", None)):
            set_epoch(self._passes)
        self._batches, self._taken = iter(self._loader), 0

    def state_dict(self) -> dict[str, Any]:
        """Where the present pass began, and how many batches were taken since."""
        return {"begin": self._begin, "taken": self._taken, "passes": self._passes}

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
            self._start()
            assert self._batches is not None
            for _ in range(state["taken"]):
                next(self._batches)
                self._taken += 1


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators from which a loader shuffles, if it was given any."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    owners = [loader, sampler, batches, getattr(batches, "sampler", None)]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
