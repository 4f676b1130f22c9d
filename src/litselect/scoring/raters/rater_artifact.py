"""A trained rater, to be used and passed on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - untyped PathLike
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from litselect.scoring.meta_gradients.private_streams import seeded
from litselect.scoring.raters.fields import Fields, default_fields
from litselect.scoring.raters.image_rater import ImageRater
from litselect.scoring.raters.labelled_image_rater import LabelledImageRater
from litselect.scoring.raters.rate import asks_for, rate
from litselect.scoring.raters.statistics_rater import StatisticsRater
from litselect.scoring.raters.table_rater import TableRater
from litselect.scoring.rows import count_rows, map_columns

if TYPE_CHECKING:
    from jaxtyping import Float

FORMAT: Final = 1
QUANTILES: Final = 1001
_KNOWN: Final[dict[str, type[nn.Module]]] = {
    rater.__name__: rater for rater in (ImageRater, LabelledImageRater, StatisticsRater, TableRater)
}
_WEIGHTS: Final = "rater.safetensors"
_FACTS: Final = "rater.json"
_SCORES: Final = "scores.safetensors"


class RaterArtifact:
    """A frozen rater with what one has to know to use it.

    On disk a folder: weights, quantiles and cached scores as safetensors, the rest as JSON. Loading it runs no code
    that lies in it; a rater of a class of your own is passed to `load`.

    Args:
        rater: the network.
        quantiles: ``[M]`` ascending, of its ratings over the training data.
        data: digests of training and held-out data, by ``"train"`` and ``"heldout"``.
        settings: how it was trained, JSON values.
        fields: finds what the rater looks at in a batch.
        cached: ratings of whole data sets, by digest.
    """

    def __init__(
        self,
        rater: nn.Module,
        quantiles: Float[Tensor, " quantiles"],
        data: dict[str, str],
        settings: dict[str, Any],
        fields: Fields | None = None,
        cached: dict[str, Tensor] | None = None,
    ) -> None:
        self.rater = rater.eval().requires_grad_(False)
        self.quantiles, self.data, self.settings = quantiles.detach().float().cpu().contiguous(), data, settings
        self.fields = fields or default_fields
        self.cached = cached or {}

    @property
    def follows_model(self) -> bool:
        """Whether ratings depend on the model in training, so that none can be stored."""
        return "statistics" in asks_for(self.rater)

    @torch.no_grad()
    def rate(self, batch: Any) -> Float[Tensor, " batch"]:
        """The ratings of a batch, on the rater's device."""
        device = next((p.device for p in self.rater.parameters()), torch.device("cpu"))
        known = {name: value.to(device) for name, value in self.fields(batch).items()}
        return rate(self.rater, known)

    def scores(self, dataset: Any, *, batch_size: int = 256, collate_fn: Any = None) -> Float[Tensor, " examples"]:
        """One rating for each example of a map-style data set, in its order: the id is the place.

        They are cached under a digest of the data, and `save` writes them, too. Random augmentations are drawn from a
        stream of their own, the same each time.

        Cost: one pass over the data, which is loaded in any case; one of the rater the first time.

        Raises:
            ValueError: if the ratings depend on the model in training.
        """
        if self.follows_model:
            raise ValueError(
                f"One score per example can be stored only if it stays the same, but {type(self.rater).__name__} rates "
                "by the statistics of the model in training. Use it beside the training: callbacks.DataRater."
            )
        loader: Any = DataLoader(dataset, batch_size=batch_size, collate_fn=collate_fn)
        with seeded(0):
            digest = digest_of(loader, self.fields)
        if digest not in self.cached:
            with seeded(0):
                self.cached[digest] = torch.cat([self.rate(batch).float().cpu() for batch in loader])
        return self.cached[digest]

    def percentile(self, ratings: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The share of the training data that is rated lower, in [0, 1]; what is rated the same counts half."""
        quantiles, ratings = self.quantiles.to(ratings.device), ratings.detach().float().contiguous()
        below, up_to = (torch.searchsorted(quantiles, ratings, right=right) for right in (False, True))
        return (below + up_to) / (2 * len(quantiles))

    def accept_prob(self, ratings: Float[Tensor, " batch"], *, candidates: int, keep: int) -> Float[Tensor, " batch"]:
        r"""The probability that an example would be among the best `keep` of `candidates` drawn with it.

        The paper's point-wise filter: with the share p of the data that is rated lower,
        :math:`\sum_{s<K} \binom{B-1}{s} (1-p)^s p^{B-1-s}`. Accepting each example by itself with this probability
        emulates the filter of whole batches, so that those turned down need not even be decoded.

        Args:
            ratings: of the examples.
            candidates: B.
            keep: K.

        Raises:
            ValueError: unless 1 <= K <= B.
        """
        if not 1 <= keep <= candidates:
            raise ValueError(f"Expected 1 <= keep <= candidates, but got keep={keep!r} of candidates={candidates!r}.")
        # few, however many ratings there are
        shares, which = cast("Any", self.percentile(ratings).double()).unique(return_inverse=True)
        p: Tensor = shares[:, None]
        better = torch.arange(keep, dtype=torch.float64, device=p.device)
        others = candidates - 1
        ways = math.lgamma(others + 1) - torch.lgamma(better + 1) - torch.lgamma(others - better + 1)
        terms = ways + torch.xlogy(better, 1 - p) + torch.xlogy(others - better, p)
        return terms.exp().sum(1).clamp(0, 1).float()[which]

    # ------------------------------------------------------------------ on disk

    def save(self, folder: str | Path) -> None:
        """Write the artifact into `folder`, which is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kind = type(self.rater)
        plain = {"memory_format": torch.contiguous_format}  # all that a file of tensors holds
        weights = {f"rater.{name}": t.detach().cpu().clone(**plain) for name, t in self.rater.state_dict().items()}
        save_file({**weights, "quantiles": self.quantiles}, folder / _WEIGHTS)
        (folder / _SCORES).unlink(missing_ok=True)  # of another rater, perhaps
        if self.cached:
            save_file({digest: scores.contiguous() for digest, scores in self.cached.items()}, folder / _SCORES)
        facts = {
            "format": FORMAT,
            "rater": {
                "class": kind.__name__ if kind in _KNOWN.values() else f"{kind.__module__}.{kind.__qualname__}",
                "arguments": getattr(self.rater, "arguments", None) if kind in _KNOWN.values() else None,
            },
            "own_fields": self.fields is not default_fields,
            "data": self.data,
            "settings": self.settings,
        }
        (folder / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, rater: nn.Module | None = None, fields: Fields | None = None) -> RaterArtifact:
        """Read an artifact.

        Args:
            folder: that it was saved to.
            rater: one of the same structure, where it is of a class of your own.
            fields: where it was trained with fields of your own.

        Raises:
            ValueError: if the folder holds nothing of the kind or not all of it, a rater whose class or fields have to
                be passed, or one of another structure.
        """
        folder = Path(folder)
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ValueError(f"its format is {facts['format']!r}, not {FORMAT}")
            kind, arguments = (facts["rater"][name] for name in ("class", "arguments"))
            data, settings, own_fields = (facts[name] for name in ("data", "settings", "own_fields"))
            tensors = load_file(folder / _WEIGHTS)
            quantiles = tensors.pop("quantiles")
            cached = load_file(folder / _SCORES) if (folder / _SCORES).exists() else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(
                f"A rater lies in a folder with {_WEIGHTS} and {_FACTS}, but {folder} can't be read as one "
                f"({type(error).__name__}: {error}). Make one with RaterTrainer(...).fit().save(folder)."
            ) from error
        if rater is None:
            if kind not in _KNOWN:
                raise ValueError(
                    f"{folder} holds a {kind}, which is no rater of this package, and loading runs no code from files. "
                    "Pass one of the same structure: load(folder, rater=...)."
                )
            rater = _KNOWN[kind](**arguments)
        if own_fields and fields is None:
            raise ValueError(
                f"The rater in {folder} was trained with fields of its own, without which it would look at others, but "
                "got none. Pass them: load(folder, fields=...)."
            )
        try:
            rater.load_state_dict({name.removeprefix("rater."): tensor for name, tensor in tensors.items()})
        except RuntimeError as error:
            raise ValueError(
                f"The rater must have the structure of the {kind} in {folder}, but got a {type(rater).__name__} of "
                f"another: {' '.join(str(error).split())} Build it with the arguments that it was trained with."
            ) from error
        return cls(rater, quantiles, data, settings, fields, cached)


def digest_of(loader: Any, fields: Fields) -> str:
    """A digest of what a rater may see of the data, in their order, however batched; 128 bits, hexadecimal."""
    columns: dict[str, Any] = {}
    for batch in loader:
        for name, value in fields(batch).items():
            column = columns.setdefault(name, hashlib.blake2b(f"{value.dtype}{tuple(value.shape[1:])}".encode()))
            column.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    whole = "".join(f"{name}{column.hexdigest()}" for name, column in sorted(columns.items()))
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def in_order(loader: Any, most: int) -> Iterable[Any]:
    """The batches of a loader once, not shuffled, where the data have an order; of a stream the first `most`."""
    dataset: Any = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or isinstance(dataset, IterableDataset):
        return islice(cast("Any", loader), most)
    given = cast("Any", loader)
    size = None if given.batch_sampler is None else given.batch_size or 256  # None: the data set delivers batches
    return DataLoader(dataset, size, collate_fn=given.collate_fn, num_workers=given.num_workers)


def first_of(loader: Any, fields: Fields) -> str:
    """How many examples there are, with a digest of the first labels and ids: tells data sets apart at little cost.

    Not of the inputs, which may be augmented. Of a stream the empty string.
    """
    dataset: Any = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or not hasattr(dataset, "__len__"):
        return ""
    given = cast("Any", loader)
    size = None if given.batch_sampler is None else given.batch_size or 256
    batches = DataLoader(dataset, size, collate_fn=given.collate_fn)
    first = [{name: v for name, v in fields(batch).items() if name != "inputs"} for batch in islice(batches, 1)]
    return f"{len(dataset)}-{digest_of(first, lambda known: known)}"


def moved(batch: Any, device: torch.device) -> Any:
    """A batch with its columns on `device`."""
    return map_columns(batch, count_rows(batch), lambda c: c.to(device) if isinstance(c, Tensor) else c)
