"""Held-out batches for a live rater."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from litselect.callbacks.batch_sizes import declared_batch_size
from litselect.scoring.meta_gradients.private_streams import PrivateStreams
from litselect.scoring.meta_training.held_out import carve, require_apart
from litselect.scoring.meta_training.loader_stream import LoaderStream

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

_ROWS = 64  # of a held-out batch, where the training loader declares none
_USES = ("training", "validation", "testing", "prediction")


class HeldOutData:
    """Delivers batches of examples that are never trained, in the form in which the module gets its own.

    Args:
        source: a loader; or a fraction of the training data, which is taken out of it by index.
    """

    def __init__(self, source: Any) -> None:
        if isinstance(source, bool) or (isinstance(source, (int, float)) and not 0 < source < 1):
            raise ValueError(
                f"`heldout` is a loader of examples that are not trained, or the fraction of the training data that is "
                f"held out, in (0, 1), but got {source!r}. Pass for instance heldout=0.05."
            )
        if isinstance(source, Dataset):
            raise ValueError(
                f"`heldout` is a loader of batches, but got a data set, {type(cast('Any', source)).__name__}. Pass "
                "DataLoader(dataset, batch_size=64, shuffle=True)."
            )
        self.fraction = float(source) if isinstance(source, (int, float)) else None
        self.excluded: Tensor | None = None  # ids of the training examples that are held out
        self._loader: Any = None if self.fraction is not None else source
        self._stream: LoaderStream | None = None
        self._loaded: dict[str, Any] | None = None
        self._size: int | None = None
        self._loaded_size: int | None = None

    def begin(self, trainer: Trainer, seed: int) -> None:
        """Meet the training data.

        Args:
            trainer: with its loaders.
            seed: decides which examples are held out, and in what order they come.

        Raises:
            ValueError: if held-out examples serve anything else.
        """
        training: Any = trainer.train_dataloader
        if self.fraction is not None:
            _, self._loader = carve(_without_sampler(trainer, training), self.fraction, seed)
            self.excluded = _everywhere(training.dataset, cast("Subset[Any]", self._loader.dataset).indices)
        self.require_apart(trainer)
        size = len(self._loader.dataset) if hasattr(getattr(self._loader, "dataset", None), "__len__") else None
        if self._loaded is not None and self._loaded_size != size:
            raise ValueError(
                f"A run goes on with the held-out examples that it began with, {self._loaded_size} of them, but "
                f"{size} were received. Pass the same `heldout`, or begin anew."
            )
        self._size = size
        self._stream = LoaderStream(self._loader, seed + trainer.global_rank)
        if self._loaded is not None:
            self._stream.load_state_dict(self._loaded)
            self._loaded = None

    def require_apart(self, trainer: Trainer) -> None:
        """See `litselect.scoring.meta_training.held_out.require_apart`, for all loaders that there are by now."""
        if self._loader is None:
            return
        training = [] if self.fraction is not None else _flat(trainer.train_dataloader)
        others = (trainer.val_dataloaders, trainer.test_dataloaders, trainer.predict_dataloaders)
        for use, loaders in zip(_USES, (training, *others), strict=True):
            for loader in _flat(loaders):
                require_apart(self._loader, {use: loader})
        generator = getattr(self._loader, "generator", None)
        if generator is not None and any(generator is getattr(loader, "generator", None) for loader in training):
            raise ValueError(
                "The held-out loader must draw its order from a generator of its own, but it shares that of the "
                "training loader, whose order it would change. Give it another generator, or none."
            )

    def forget(self) -> None:
        """Another training begins: the place of the one before means nothing to it."""
        self._loaded = self._loaded_size = None

    def end(self) -> None:
        """Let go of the loader's iterator and its workers; `begin` goes on from here."""
        if self._stream is not None:
            self._loaded, self._loaded_size = self._stream.state_dict(), self._size
            self._stream = None

    def next(self, trainer: Trainer, seed: int) -> Any:
        """A batch as the training step gets it; what augments it on the way draws from streams that begin at `seed`."""
        assert self._stream is not None
        batch = self._stream.next(torch.device("cpu"))
        module: Any = trainer.lightning_module
        with PrivateStreams(seed):
            batch = module._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), dataloader_idx=0)
            return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def state_dict(self) -> dict[str, Any]:
        """The place in the data."""
        if self._stream is None:
            return {"stream": self._loaded, "size": self._loaded_size}
        return {"stream": self._stream.state_dict(), "size": self._size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._loaded, self._loaded_size = state["stream"], state["size"]


def _without_sampler(trainer: Trainer, loader: Any) -> Any:
    """A loader of the same examples in their order: which of them a rank or a sampler takes is for training alone."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return loader
    return DataLoader(
        dataset, batch_size=declared_batch_size(trainer) or _ROWS, collate_fn=loader.collate_fn, drop_last=True
    )


def _everywhere(dataset: Any, held: Sequence[int]) -> Tensor:
    """The ids of held-out examples, with those under which a `Subset` delivers one of them again."""
    ids = torch.as_tensor(list(held))
    if not isinstance(dataset, Subset):
        return ids
    whose = torch.as_tensor(list(cast("Any", dataset).indices))
    return torch.isin(whose, whose[ids]).nonzero().squeeze(1)


def _flat(loaders: Any) -> list[Any]:
    if loaders is None:
        return []
    if isinstance(loaders, dict):
        loaders = list(cast("dict[str, Any]", loaders).values())
    if isinstance(loaders, (list, tuple)):
        return [inner for loader in cast("list[Any]", loaders) for inner in _flat(loader)]
    return [loaders]
