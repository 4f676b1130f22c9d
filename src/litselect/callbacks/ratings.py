"""Where a selection's ratings come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from litselect.scoring import RaterArtifact
from litselect.scoring.raters import Fields, asks_for, default_fields, rate, statistics_of

if TYPE_CHECKING:
    from litselect.callbacks.example_selection import ExampleSelection

STATISTICS_FROM: Final = frozenset({"losses", "logits", "targets"})
"""What a scoring pass has to find for a rater that looks at the statistics of the model."""


class Ratings(ABC):
    """Rates candidates for a selector that needs ratings.

    Args:
        fields: finds inputs and targets in a batch.
    """

    by_id: bool = False
    """Whether ratings are known before a batch is loaded."""
    asks_for_ids: bool = False
    """Whether the ids of candidates have to be known."""
    needs: frozenset[str] = frozenset()
    """What has to come from a scoring pass."""
    excluded: Tensor | None = None
    """Ids of examples that are neither candidates nor trained."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields

    def place(self, device: torch.device) -> None:  # noqa: B027 - there may be nothing to move
        """Move to where batches are."""

    def check(self, examples: int) -> None:  # noqa: B027 - a rater rates whatever comes
        """Refuse ratings of another data set than one of so many examples.

        Raises:
            ValueError: if they are.
        """

    def labels_in(self, batch: Any) -> dict[str, Tensor]:
        """The class labels that are found in a batch without any pass, under ``targets``; or nothing."""
        try:
            targets = self.fields(batch).get("targets")
        except ValueError:
            return {}
        is_label = targets is not None and targets.ndim == 1 and not targets.is_floating_point()
        return {"targets": targets} if targets is not None and is_label else {}

    def columns(self) -> dict[str, float]:
        """What is logged of them."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What changes while a run trains."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - frozen ratings have no state
        """Go on from `state`."""

    @abstractmethod
    def rate(self, batch: Any, ids: Tensor | None, known: dict[str, Any]) -> Tensor:
        """One rating for each row, ``[N]``.

        Args:
            batch: the candidates.
            ids: theirs, where they are known.
            known: what a scoring pass found.
        """


class TableRatings(Ratings):
    """Ratings that were computed before, by id: they cost nothing.

    Args:
        table: ``[M]``, the rating of example i at place i.

    Raises:
        ValueError: if it is not a vector of finite numbers.
    """

    by_id = asks_for_ids = True

    def __init__(self, table: Tensor) -> None:
        super().__init__(default_fields)
        if table.ndim != 1 or not table.is_floating_point() or not len(table) or not table.isfinite().all():
            raise ValueError(
                "`ratings` holds the rating of example i at place i, a tensor of finite floats of shape [M], but got "
                f"{table.dtype} of shape {tuple(table.shape)}. Make it with RaterArtifact.scores(dataset)."
            )
        self.table = table.detach()

    def check(self, examples: int) -> None:
        """Refuse a table of another data set.

        Raises:
            ValueError: if it has another length.
        """
        if examples != len(self.table):
            raise ValueError(
                f"`ratings` must hold one rating for each training example, but {len(self.table)} ratings came with "
                f"{examples} examples. Make them with RaterArtifact.scores(dataset) for the data set in training."
            )

    def rate(self, batch: Any, ids: Tensor | None, known: dict[str, Any]) -> Tensor:
        """Look them up."""
        assert ids is not None  # they are asked for at fit start
        self.table = self.table.to(ids.device)
        return self.table[ids]


class ArtifactRatings(Ratings):
    """Ratings of a frozen rater, computed for every batch as it arrives.

    Cost: the rater's forward pass over the candidates; a scoring pass, too, if it looks at the model's statistics.

    Args:
        artifact: the rater.
    """

    def __init__(self, artifact: RaterArtifact) -> None:
        super().__init__(artifact.fields)
        self.artifact = artifact
        self.needs = STATISTICS_FROM if artifact.follows_model else frozenset()
        self.asks_for_ids = "ids" in asks_for(artifact.rater)

    def place(self, device: torch.device) -> None:
        """Move the rater."""
        self.artifact.rater.to(device)

    def rate(self, batch: Any, ids: Tensor | None, known: dict[str, Any]) -> Tensor:
        """Run the rater."""
        with torch.no_grad():
            return rate(self.artifact.rater, seen_by_rater(self, self.artifact.rater, batch, ids, known))


def seen_by_rater(
    ratings: Ratings, rater: nn.Module, batch: Any, ids: Tensor | None, known: dict[str, Any]
) -> dict[str, Any]:
    """What a rater asks for of these candidates, as far as it is known."""
    asked = asks_for(rater)
    seen: dict[str, Any] = dict(ratings.fields(batch)) if {"inputs", "targets"} & {*asked} else {}
    if ids is not None:
        seen["ids"] = ids
    if ratings.needs <= known.keys() and ratings.needs:
        seen["statistics"] = statistics_of(known["losses"], known["logits"], known["targets"])
    return seen


def rated_by_id(callback: ExampleSelection) -> bool:
    """Whether all that the selector needs is known before a batch is loaded: ratings of a table."""
    ratings = callback.ratings
    return ratings is not None and ratings.by_id and callback.selector.needs <= {"ratings", "ids"}


def as_ratings(given: Any) -> Ratings | None:
    """What the ``ratings`` argument of a callback means.

    Raises:
        TypeError: if it is nothing that rates.
    """
    if given is None or isinstance(given, Ratings):
        return given
    if isinstance(given, Tensor):
        return TableRatings(given)
    if isinstance(given, (str, Path)):
        return ArtifactRatings(RaterArtifact.load(given))
    if isinstance(given, RaterArtifact):
        return ArtifactRatings(given)
    raise TypeError(
        "Expected `ratings` to be a tensor [M] with the rating of example i at place i, a RaterArtifact or its folder, "
        f"but got {given!r}. For a rater that learns beside the training use callbacks.DataRater."
    )


def labels_of(dataset: Any) -> Tensor | None:
    """The class of every example, ``[M]`` int64, where a data set shows it without loading examples; else ``None``.

    Read off ``targets`` or ``labels``, as the data sets of torchvision have them, off a `TensorDataset`, and through a
    `Subset`.
    """
    if isinstance(dataset, Subset):
        whole = labels_of(cast("Any", dataset).dataset)
        return None if whole is None else whole[torch.as_tensor(list(dataset.indices))]
    found = getattr(dataset, "targets", None)
    found = getattr(dataset, "labels", None) if found is None else found
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        found = dataset.tensors[1]
    try:
        labels = torch.as_tensor(found)
        fits = labels.shape == (len(dataset),) and not labels.is_floating_point()
    except (TypeError, ValueError, RuntimeError):  # some other attribute of that name
        return None
    return labels.long().cpu() if fits else None
