"""Which examples a batch holds, without changing data set, batch or collate function."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from litselect.callbacks.early_choice import EarlyChoice
from litselect.callbacks.foreseeable import foreseeable
from litselect.callbacks.tapped_sampler import REMEDY, Decide, Delivery, TappedIterator, TappedSampler

if TYPE_CHECKING:
    from jaxtyping import Int
    from pytorch_lightning import Trainer

    from litselect.callbacks.doubts import Doubts


_MOST_EXAMPLES: Final = 2**31  # whose ledger takes 66 GB: such a number is a key of something else


class IdTap:
    """Matches the index lists of a loader's batch sampler to the batches that arrive.

    The loader iterates its batch sampler in the main process and delivers batches in that order, prefetched or not, so
    the batch in place i has the indices in place i.

    Args:
        decide: called for every batch before it is loaded, see `Decide`.
        doubts: see `TappedSampler`.
    """

    def __init__(self, decide: Decide, doubts: Doubts) -> None:
        self.start = 0  # the number of the batch with which an epoch goes on
        self._decide, self._doubts = decide, doubts
        self._began = False  # whether a batch has arrived: by then, callbacks have said all that a choice goes by
        self.excluded: Tensor | None = None  # on the CPU, ids that are not sent for

    def admitted(self, ids: Int[Tensor, " batch"]) -> Int[Tensor, " sent"] | None:
        """The places of `ids` that are sent for. None for all, as where none would be left: no loader delivers that."""
        if self.excluded is None:
            return None
        places = torch.isin(ids, self.excluded, invert=True).nonzero().squeeze(1)
        return places if len(places) else None

    @property
    def _foresees(self) -> bool:
        """Whether nobody can tell when rows are chosen."""
        return self._began and isinstance(self._decide, EarlyChoice) and self._decide.foreseeable

    def tapped(self, loader: Any, others: bool) -> Any:
        """A copy of `loader` that is listened to: whoever else reads the loader reads it as it is.

        Args:
            loader: of the training.
            others: whether it is read beside others.

        Raises:
            ValueError: if its batches can't be matched to indices.
        """
        if others:
            raise ValueError(
                "Expected one DataLoader for training, whose batches can be matched to indices, but got "
                f"several. {REMEDY}"
            )
        is_loader, iterate = _is_a(loader, DataLoader), cast("Any", type(loader)).__iter__
        if not is_loader or iterate.__module__.partition(".")[0] not in ("torch", "torchdata"):
            raise ValueError(
                "The ids of examples are read off the batch sampler of a torch DataLoader, but the loader is a "
                f"{type(loader).__name__}, which iterates in a way of its own. {REMEDY}"
            )
        if _is_a(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            raise ValueError(
                "The ids of examples are indices of a map-style data set that a batch sampler puts together, but "
                f"{type(loader.dataset).__name__} is iterated without one. {REMEDY}"
            )
        if not getattr(loader, "in_order", True):
            raise ValueError(
                "Batches are matched to indices by their order, but the DataLoader has in_order=False. Use "
                f"in_order=True. Or: {REMEDY}"
            )
        copied, sampler = copy.copy(loader), loader.batch_sampler
        sampler = sampler.tapped if isinstance(sampler, TappedSampler) else sampler  # of an earlier fit
        # Not by assignment, which DataLoader forbids. Workers that persist are the copy's own.
        still = foreseeable(sampler) and not hasattr(loader, "state_dict")  # whose place is that of what it sent for
        ahead = (lambda: self._foresees) if still else (lambda: False)
        tapped = TappedSampler(sampler, self._decide, self.admitted, self._doubts, ahead)
        copied.__dict__.update(batch_sampler=tapped, _iterator=None)
        return copied

    def delivery(self, trainer: Trainer, batch_idx: int, rows: int, size: int) -> Delivery:
        """What was noted of the batch that has arrived.

        Args:
            trainer: whose batch it is.
            batch_idx: its number.
            rows: how many arrived.
            size: of the data set.

        Raises:
            RuntimeError: if the batch did not come through the tap, or is not what its sampler sent for.
        """
        self._began = True
        iterator = self._running(trainer)
        place = batch_idx - self.start + iterator.first
        for passed in [earlier for earlier in iterator.deliveries if earlier < place]:
            del iterator.deliveries[passed]  # of batches that a hook declined
        delivery = iterator.deliveries.pop(place, None)
        if delivery is None:
            raise RuntimeError(f"Batch {batch_idx} arrived, but the batch sampler had not been asked for it. {REMEDY}")
        if delivery.rows != rows:
            raise RuntimeError(
                f"A batch of {rows} rows arrived, but the batch sampler had sent {delivery.rows} indices for it: "
                f"the collate function adds or drops rows. {REMEDY}"
            )
        lowest, highest = delivery.bounds
        if lowest < 0 or highest >= size:
            raise RuntimeError(
                f"The ids of examples are positions in a data set, here of {size}, but the batch sampler sent for "
                f"{lowest} to {highest}. {REMEDY}"
            )
        return delivery

    @staticmethod
    def _running(trainer: Trainer) -> TappedIterator:
        """The iterator that the present epoch reads: others may have been made by whoever looks at the data."""
        loop: Any = trainer.fit_loop
        running = getattr(getattr(loop._combined_loader, "_iterator", None), "iterators", [])
        taps = [getattr(iterator, "_sampler_iter", None) for iterator in running]
        if len(taps) != 1 or not isinstance(taps[0], TappedIterator):
            raise RuntimeError(
                f"Expected one DataLoader for training, whose batches can be matched to indices, but got {len(taps)} "
                f"({', '.join(type(iterator).__name__ for iterator in running)}). {REMEDY}"
            )
        return taps[0]


def validated(ids: Any, n: int) -> tuple[Int[Tensor, " batch"], int]:
    """What `ids` found in a batch of `n` rows, and the largest of them.

    Raises:
        ValueError: if that is anything but one integer a row, or too large for a position in a data set.
    """
    fits = isinstance(ids, Tensor) and ids.shape == (n,) and not ids.is_floating_point() and n > 0
    least, largest = (int(end) for end in ids.aminmax()) if fits and ids.dtype is not torch.bool else (-1, -1)
    if least < 0:
        got = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(
            f"`ids` must find one integer >= 0 for each row of the batch, a tensor of shape ({n},), but found {got}. "
            "Pass a function such as `ids=lambda batch: batch[2]`."
        )
    if largest >= _MOST_EXAMPLES:
        raise ValueError(
            "`ids` must find the positions of the examples in their data set, since a ledger has an entry of 31 bytes "
            f"for each number up to the largest, but found {largest}. Number the examples from 0 on: let the data set "
            "return the index, or map your keys to such numbers."
        )
    return ids.long(), largest


def _is_a(value: Any, kind: type[Any]) -> bool:
    """`isinstance`, which would make a type of unknown parameters of what is any type."""
    return isinstance(value, kind)
