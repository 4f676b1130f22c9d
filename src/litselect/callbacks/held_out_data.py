"""Held-out batches for a live rater."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from litselect.callbacks.requirements import declared_batch_size
from litselect.scoring.meta_gradients.private_streams import PrivateStreams
from litselect.scoring.meta_training.held_out import carve, require_apart
from litselect.scoring.meta_training.loader_stream import LoaderStream

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

_USES = ("validation", "testing", "prediction")


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
        self.fraction = float(source) if isinstance(source, (int, float)) else None
        self.excluded: Tensor | None = None  # [M] bool, which training examples are held out
        self._loader: Any = None if self.fraction is not None else source
        self._stream: LoaderStream | None = None
        self._loaded: dict[str, Any] | None = None

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
            held = cast("Subset[Any]", self._loader.dataset)
            self.excluded = torch.zeros(len(training.dataset), dtype=torch.bool)
            self.excluded[torch.as_tensor(list(held.indices))] = True
        else:
            loaders = (trainer.val_dataloaders, trainer.test_dataloaders, trainer.predict_dataloaders)
            others = {use: loader for use, found in zip(_USES, loaders, strict=True) for loader in _flat(found)}
            require_apart(self._loader, {"training": training, **others})
        self._stream = LoaderStream(self._loader, seed + trainer.global_rank)
        if self._loaded is not None:
            self._stream.load_state_dict(self._loaded)
            self._loaded = None

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
        return {"stream": self._loaded if self._stream is None else self._stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._loaded = state["stream"]


def _without_sampler(trainer: Trainer, loader: Any) -> Any:
    """A loader of the same examples in their order: which of them a rank or a sampler takes is for training alone."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return loader
    return DataLoader(dataset, batch_size=declared_batch_size(trainer) or 1, collate_fn=loader.collate_fn)


def _flat(loaders: Any) -> list[Any]:
    if loaders is None:
        return []
    if isinstance(loaders, dict):
        loaders = list(cast("dict[str, Any]", loaders).values())
    if isinstance(loaders, (list, tuple)):
        return [inner for loader in cast("list[Any]", loaders) for inner in _flat(loader)]
    return [loaders]
