"""Train the examples whose loss can still be reduced.

Mindermann et al., 2022, "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet Learnt",
https://arxiv.org/abs/2206.07137
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - untyped PathLike

from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Int
    from torch import Tensor


class ReducibleLoss(Selector):
    r"""Keep the k examples of highest :math:`\mathrm{loss}_i - \mathrm{irreducible}_i` (RHO-LOSS).

    The irreducible loss is that of a model trained on held-out data: what no amount of training on the example's own
    copy would explain. An example scores low if it is learned (low loss), or noisy or odd (high irreducible loss).
    Ties go to the earlier row.

    Needs: losses (one forward pass) and ids.  State: none; the table is an argument and not in the checkpoint.
    Cost: O(N log N); on an accelerator one host sync, to check the looked-up losses.

    Args:
        keep: fraction of the candidates that is trained.
        irreducible: losses by id, ``[M]``: a tensor, or the path of a safetensors file that holds one; NaN for ids
            that have none. Or a function from ids ``[N]`` to losses ``[N]``.

    Raises:
        ValueError: if the table is not a vector of numbers, an id is outside it, or there is no loss for an id.

    >>> select = ReducibleLoss(keep=0.5, irreducible=torch.tensor([0.0, 2.9, 0.1, 0.0]))
    >>> select(losses=torch.tensor([0.1, 3.0, 2.0, 0.2]), ids=torch.arange(4)).indices
    tensor([2, 3])
    """

    memoryless = True

    def __init__(
        self,
        keep: float = 0.1,
        irreducible: Tensor | str | Path | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(keep)
        self.irreducible = str(irreducible) if isinstance(irreducible, Path) else irreducible
        self._table = _table(self.irreducible)

    def select(self, k: int, *, losses: Float[Tensor, " batch"], ids: Int[Tensor, " batch"]) -> Selection:
        """The k rows of highest reducible loss."""
        losses = losses.detach()
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
        score = losses - self._look_up(ids).to(losses)
        return Selection.of(score.sort(descending=True, stable=True).indices[:k])

    def _look_up(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        if self._table is None:
            assert callable(self.irreducible)
            found = self.irreducible(ids).detach()
            if found.shape != ids.shape:
                raise ValueError(
                    f"Expected one irreducible loss for each of {len(ids)} ids, but the function answered with shape "
                    f"{tuple(found.shape)}. Return a vector, in the order of the ids."
                )
        else:
            size = len(self._table)
            self._table = self._table.to(ids.device)
            inside = (ids >= 0) & (ids < size)
            found = self._table[ids.clamp(0, size - 1)].masked_fill(~inside, torch.nan)
        if unknown := int((~found.isfinite()).sum()):
            self._refuse_outside(ids)
            first = int(ids[~found.isfinite()][0])
            raise ValueError(
                f"{unknown} of {len(ids)} examples have no finite irreducible loss (the first has id {first}). "
                "Compute theirs too, or leave them out of the training data (they may be the held-out ones)."
            )
        return found

    def _refuse_outside(self, ids: Int[Tensor, " batch"]) -> None:
        size = 0 if self._table is None else len(self._table)
        if size and (outside := int(((ids < 0) | (ids >= size)).sum())):
            raise ValueError(
                f"Irreducible losses are known for ids 0 to {size - 1}, but {outside} of {len(ids)} ids are "
                f"outside ({int(ids.min())} to {int(ids.max())}). Compute the table for the data set in training."
            )

    def __repr__(self) -> str:
        shown = self.irreducible
        text = f"<{len(shown)} losses>" if isinstance(shown, torch.Tensor) else repr(shown)
        return f"ReducibleLoss(keep={self.keep!r}, irreducible={text})"


def _table(given: object) -> Float[Tensor, " examples"] | None:
    """The vector that is given or lies in a file; ``None`` for a function."""
    if callable(given) and not isinstance(given, torch.Tensor):
        return None
    table = given
    if isinstance(given, str):
        if not given.endswith(".safetensors"):
            raise ValueError(
                f"Irreducible losses are loaded from safetensors files, which can't run code, but got {given!r}. "
                "Save them with safetensors.torch.save_file({'irreducible': losses}, 'irreducible.safetensors')."
            )
        tensors: dict[str, torch.Tensor] = load_file(given)
        if len(tensors) != 1:
            raise ValueError(f"Expected one tensor in {given!r}, but found {sorted(tensors)}. Save the losses alone.")
        table = next(iter(tensors.values()))
    if not isinstance(table, torch.Tensor) or table.ndim != 1 or not table.is_floating_point() or table.numel() == 0:
        got = f"{table.dtype} of shape {tuple(table.shape)}" if isinstance(table, torch.Tensor) else repr(table)
        raise ValueError(
            "`irreducible` holds the loss of example i at place i: expected a float tensor [M], the path of a "
            f"safetensors file with one, or a function of ids, but got {got}. Compute it with a model trained on "
            "held-out data."
        )
    return table.detach()
