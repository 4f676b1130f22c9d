"""The interface of every selector."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from litselect.selectors.broken_rows import SHARES, broken_rows
from litselect.selectors.candidates import count_candidates
from litselect.selectors.own_randomness import OwnRandomness
from litselect.selectors.selection import Selection
from litselect.selectors.signature import SCORES, read_signature

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped
    from torch import Tensor

_SOURCES: Final = {  # where they come from
    "losses": "one for each candidate, from a scoring pass or a ledger",
    "logits": "the network's outputs, from a scoring pass",
    "targets": "what the loss compares them with",
    "ids": "each candidate's position in the data set, which a ledger or `ids=` knows",
    "ratings": "a rater's scores",
    "percentiles": 'ranks of the last known losses, which a ledger knows: scoring="ledger"',
    "confidences": "of the last known predictions, which a ledger knows",
    "ages": "of the last known losses, which a ledger knows",
}


class Selector(OwnRandomness, ABC):
    """Chooses the rows of a batch that are worth a backward pass.

    A subclass writes one method, `select`, whose keyword-only parameters state what it needs:

    >>> from litselect.selectors import Selection
    >>> class LongestFirst(Selector):
    ...     def select(self, k, *, losses):
    ...         return Selection.of(losses.topk(k).indices)
    >>> LongestFirst(keep=0.5)(losses=torch.tensor([1.0, 4.0, 3.0, 2.0])).indices
    tensor([1, 2])

    What it draws comes from `uniform` and `shuffled`, its own random stream. Subclasses are final: to tweak one, wrap
    it.

    Args:
        keep: fraction of the candidates that is trained, in (0, 1].
        seed: seed of the selector's own random stream; ``None`` derives it from ``torch.initial_seed()`` at the
            first draw and draws nothing from the global stream. Every rank gets a stream of its own.
        generator: a CPU generator to draw from, in place of `seed`.

    Raises:
        ValueError: if `keep` is outside (0, 1], or both `seed` and `generator` are given.
    """

    needs: frozenset[str] = frozenset()
    """Names of the score tensors that `select` can't do without, read off its signature."""

    takes: ClassVar[frozenset[str] | None] = frozenset()
    """Names of all that `select` takes, likewise; None for everything there is, as wrappers do."""

    probabilistic: bool = False
    """Whether the number of chosen rows is random: then it may be anything from none to all."""

    remembers: bool = False
    """Whether losses are meant to be the last known ones, of a ledger: then no scoring pass is made for them."""

    compensates: bool = False
    """Whether the learning rate is to rise as the number of steps falls, where hidden rows make for fewer of them."""

    weighted: bool = False
    """Whether answers carry weights."""

    at_least: bool = False
    """Whether `keep` is the least share that is trained, and the selector decides how much more."""

    memoryless: bool = False
    """Whether a choice by what is remembered leaves nothing behind: then it may be made long before its time."""

    follows_progress: bool = False
    """Whether it chooses otherwise at other times of the training, whose length must be known for that."""

    _instead: str = ""  # what else can be done where a need is missing, for the message
    _has_block: ClassVar[bool] = False
    _derived: ClassVar[frozenset[str]] = frozenset()  # attributes that follow from other arguments: not in the repr

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._has_block = "select_block" in cls.__dict__  # that of another class says nothing of this one's choice
        if "select" not in cls.__dict__:
            return
        cls.takes, needs = read_signature(cls.__name__, cls.select)
        cls.memoryless = cls.__dict__.get("memoryless", False)  # that of another `select` says nothing of this one
        if "needs" not in cls.__dict__:
            cls.needs = needs

    def __init__(self, keep: float = 1.0, *, seed: int | None = None, generator: torch.Generator | None = None) -> None:
        if not (isinstance(keep, Real) and 0 < keep <= 1):  # pyright: ignore[reportUnnecessaryIsInstance] - users
            raise ValueError(
                f"`keep` is the fraction of each batch that is trained and must be in (0, 1], but got {keep!r}. "
                "To train a third of every batch pass keep=1/3."
            )
        super().__init__(seed, generator)
        self.keep = float(keep)  # numpy's numbers are real, too
        self.progress = 0.0  # share of the training that is done, in [0, 1]; set by whoever knows it
        self.epoch = 0  # epochs that are done, of so many
        self.epochs: int | None = None

    @property
    def wants(self) -> frozenset[str]:
        """What the next call can't do without: all of `needs`, or less while a selector chooses blindly.

        Whoever computes scores asks before.
        """
        return self.needs

    @property
    def wants_scores(self) -> bool:
        """Whether the next call needs anything at all."""
        return bool(self.wants)

    @property
    def foreseeable(self) -> bool:
        """Whether nobody can tell when a choice by what is remembered is made: it draws from no stream of others."""
        return self.memoryless and self._given is None

    @property
    def takes_blocks(self) -> bool:
        """Whether several batches can be chosen from at once: there is a `select_block`, and progress plays no part."""
        return self._has_block and not self.follows_progress

    @abstractmethod
    def select(self, k: int, *args: Any, **scores: Any) -> Selection:
        """Choose `k` rows (a probabilistic selector: any number).

        A subclass names what it takes as keyword-only parameters: score tensors (see `__call__`), `candidates` (N),
        `device` and `mean_loss`. Those without a default are its `needs`.
        """

    def select_block(self, k: int, places: Sequence[tuple[int, ...]], *args: Any, **scores: Any) -> list[Selection]:
        """What `select` answers for each of B batches after `draw_for`, to the bit, in hardly more time than for one.

        Choices by what is remembered are made for many batches in a row: of all at once, where a selector has this
        method. It takes what its `select` takes, scores of shape ``[B, N]``, on the CPU; `places` are those that
        `draw_for` is called with.
        """
        raise NotImplementedError  # not abstract: a selector can do without, and is not asked then

    def __call__(
        self,
        *,
        losses: Float[Tensor, " batch"] | None = None,
        logits: Float[Tensor, "batch ..."] | None = None,
        targets: Shaped[Tensor, "batch ..."] | None = None,
        ids: Int[Tensor, " batch"] | None = None,
        ratings: Float[Tensor, " batch"] | None = None,
        percentiles: Float[Tensor, " batch"] | None = None,
        confidences: Float[Tensor, " batch"] | None = None,
        ages: Float[Tensor, " batch"] | None = None,
        mean_loss: float | None = None,
        candidates: int | None = None,
        k: int | None = None,
    ) -> Selection:
        """Choose among N candidates.

        Args:
            losses: per-example losses.
            logits: network outputs before the loss.
            targets: what the loss compares them with.
            ids: position of each candidate in the data set, int64.
            ratings: a rater's scores.
            percentiles: rank of each candidate's last known loss among those of the whole data set, in [0, 1], 1 the
                hardest; ties share the middle of their ranks. Exactly 1 says that no loss is known yet.
            confidences: probability last predicted for the candidate's class, 0 where another class was likelier.
            ages: how many epochs ago the candidate's loss was last computed, 0 for this one; inf where it never was.
            mean_loss: mean of the last known losses of the whole data set.
            candidates: N, for selectors that look at nothing; otherwise read off the tensors.
            k: how many rows to choose, in place of ``round(keep * N)``.

        Returns:
            The chosen rows, on the device of the tensors.

        Raises:
            ValueError: if a needed tensor is missing, is not one row per candidate or disagrees about N, if N is 0 or
                `k` outside [1, N], or (on the CPU, where looking is free) if a needed score is not finite.
        """
        scores = (losses, logits, targets, ids, ratings, percentiles, confidences, ages)
        given = {name: tensor for name, tensor in zip(SCORES, scores, strict=True) if tensor is not None}
        n = self._validate(given, candidates)
        if k is None:
            k = self.count(n)
        elif not 1 <= k <= n:
            raise ValueError(f"Expected 1 <= k <= N, but got k={k} for N={n} candidates.")
        device = next((tensor.device for tensor in given.values()), torch.device("cpu"))
        context: dict[str, Any] = {**given, "candidates": n, "device": device}
        if mean_loss is not None:
            context["mean_loss"] = mean_loss
        chosen: Any = self.select(k, **self._taken(context))
        if not isinstance(chosen, Selection):
            raise TypeError(
                f"{type(self).__name__}.select must answer with a Selection, but got {type(chosen).__name__}. Return "
                "Selection.of(rows), where rows are the positions of the chosen candidates."
            )
        return chosen

    def choose_block(
        self, places: Sequence[tuple[int, ...]], candidates: int, k: int, scores: Mapping[str, Any]
    ) -> list[Selection]:
        """What `draw_for` and a call answer for each of B batches; empty where they can't be made at once.

        Args:
            places: of the batches, see `draw_for`.
            candidates: N, of each batch.
            k: how many rows of each.
            scores: see `__call__`; tensors on the CPU, one batch after the other, ``[B * N]`` each.

        Raises:
            TypeError: if `select_block` does not answer with a `Selection` for each batch.
        """
        if not self.takes_blocks:
            return []
        if any(broken_rows(name, scores[name]) for name in self.uses(scores.keys())):
            return []  # by itself, each is told of when its turn comes
        context: dict[str, Any] = {"candidates": candidates, "device": torch.device("cpu")}
        for name, value in scores.items():
            context[name] = value.reshape(len(places), candidates) if isinstance(value, torch.Tensor) else value
        chosen: Any = self.select_block(k, places, **self._taken(context))
        if [type(rows) for rows in chosen] != [Selection] * len(places):
            raise TypeError(
                f"{type(self).__name__}.select_block must answer with a Selection for each of {len(places)} batches, "
                f"but got {chosen!r:.200}. Return [Selection.of(rows) for rows in ...], or leave the method out."
            )
        return chosen

    def count(self, n: int) -> int:
        """How many of `n` candidates are trained: at least one."""
        return max(1, round(self.keep * n))

    def uses(self, given: Set[str]) -> frozenset[str]:
        """What the next call can't do without if it is given `given`: it must be there, and in order."""
        return self.wants | (self.needs & given)

    def _taken(self, context: dict[str, Any]) -> dict[str, Any]:
        """What `select` takes of all that is known."""
        takes = context.keys() if self.takes is None else self.takes & context.keys()
        return {name: context[name] for name in takes}

    def _validate(self, given: dict[str, Tensor], candidates: int | None) -> int:
        uses = self.uses(given.keys())
        if missing := sorted(uses - given.keys()):
            remedies = [f"{name}=... ({_SOURCES[name]})" for name in missing]
            raise ValueError(
                f"{type(self).__name__} needs {', '.join(sorted(self.needs))}, but {', '.join(missing)} was not given. "
                f"Call it with {', '.join(remedies)}{self._instead}."
            )
        n = count_candidates(given, candidates)
        for name in sorted(uses):
            self._refuse_broken(name, given[name])
        return n

    def _refuse_broken(self, name: str, scores: Tensor) -> None:
        """Raise for rows that can't be ranked. Only on the CPU: elsewhere the host would wait for the device."""
        if scores.device.type == "cpu" and (bad := broken_rows(name, scores)):
            wrong = "NaN or outside [0, 1]" if name in SHARES else "NaN or inf"
            raise ValueError(
                f"{type(self).__name__} can't rank {name} that are not finite, but {bad} of {scores.shape[0]} rows are "
                f"{wrong}. Find the broken rows, or leave them out of the candidates."
            )

    def at(self, progress: float | None, epoch: int, epochs: int | None) -> None:
        """Say how far training is: the share that is done, or None; the epochs that are, of how many (-1: no end)."""
        self.epoch, self.epochs = epoch, epochs if epochs is not None and epochs > 0 else None
        by_epochs = epoch / self.epochs if self.epochs else 0.0
        self.progress = by_epochs if progress is None else progress

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self)).parameters if name not in self._derived]
        # Not self.generator, which would begin the random stream before the rank is known.
        shown = {name: self._given if name == "generator" else getattr(self, name, None) for name in names}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items() if v is not None)})"
