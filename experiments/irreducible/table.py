"""Irreducible losses on disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from experiments.callbacks import Cost
from experiments.errors import UsageError
from litselect.selectors import ReducibleLoss, Selector

NAME = "irreducible"
REMEDY = "make one with python -m experiments.irreducible_loss and the same data, or leave table out"


class Table:
    """Losses by id, as `ReducibleLoss` asks for them, that are read when they are first needed.

    Beside the losses the file holds what they cost, which is charged to every run that uses them, and a fingerprint of
    the training set that they belong to.

    Args:
        path: the safetensors file; None until there is one.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._losses: Any = None

    def __call__(self, ids: Tensor) -> Tensor:
        """The irreducible losses `[N]` of the examples `ids` (`[N]` int64)."""
        if self._losses is None or self._losses.device != ids.device:
            self._losses = self.losses().to(ids.device)
        return self._losses[ids]

    def losses(self) -> Tensor:
        """Those of all examples, `[M]`."""
        with self._open() as file:
            return file.get_tensor(NAME)

    def cost(self, fingerprint: str) -> Cost:
        """What it took to make the table.

        Args:
            fingerprint: of the training set that the table is to be used with.

        Raises:
            UsageError: the file can't be read, was not made by the command, or belongs to another training set.
        """
        with self._open() as file:
            facts = file.metadata() or {}
        if "cost" not in facts:
            raise UsageError(f"a table must say what it cost, received {self.path}, which does not; {REMEDY}")
        if facts.get("fingerprint") != fingerprint:
            raise UsageError(f"a table must belong to the training set, received {self.path} of another one; {REMEDY}")
        return Cost.from_json(facts["cost"])

    def _open(self) -> Any:
        if self.path is None or not Path(self.path).is_file():
            raise UsageError(f"table must be a file of irreducible losses, received {self.path}; {REMEDY}")
        try:
            return safe_open(self.path, framework="pt")
        except SafetensorError as error:
            raise UsageError(f"table must be a safetensors file, received {self.path}: {error}; {REMEDY}") from error

    def __repr__(self) -> str:
        return f"Table({self.path!r})"


def write_table(path: Path, losses: Tensor, cost: Cost, fingerprint: str, facts: dict[str, str]) -> None:
    """Writes `losses` (`[N]`), whose file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    save_file(
        {NAME: losses.to(torch.float32).contiguous()},
        draft,
        metadata={**facts, "cost": cost.to_json(), "fingerprint": fingerprint},
    )
    draft.replace(path)


def table_of(selection: Callback | None) -> Table | None:
    """The table that a selection callback looks things up in, or None if it needs none.

    Raises:
        UsageError: irreducible losses from elsewhere, whose cost nobody could charge.
    """
    for selector in _selectors(getattr(selection, "selector", None)):
        if isinstance(selector, ReducibleLoss):
            if not isinstance(selector.irreducible, Table):
                raise UsageError(
                    f"irreducible losses come from a table that says what it cost, received {selector.irreducible!r}; "
                    f"set table=... to its file"
                )
            return selector.irreducible
    return None


def _selectors(outermost: Selector | None) -> Iterator[Selector]:
    """A selector and those that it wraps."""
    while outermost is not None:
        yield outermost
        outermost = getattr(outermost, "selector", None)
