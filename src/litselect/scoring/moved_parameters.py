"""Parameters that a step moves by itself."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from litselect.scoring.tensor_copies import TensorCopies


@dataclass
class Watched:
    """The parameters of one pass.

    Args:
        versions: each with the version that it had.
        copied: ids of those of which there are copies.
    """

    versions: list[tuple[nn.Parameter, int]]
    copied: set[int]

    def moved(self) -> dict[int, nn.Parameter]:
        """Those that have another version by now."""
        return {id(parameter): parameter for parameter, version in self.versions if parameter._version != version}

    def renew(self) -> None:
        """What was put back has a new version, too: that counts from now on."""
        self.versions = [(parameter, parameter._version) for parameter, _ in self.versions]


class MovedParameters:
    """Which parameters a step moves itself, as a mean teacher's or a momentum encoder's, so that passes copy them.

    The first pass keeps copies of all that are not trained, if there is memory for them. Later ones keep copies of
    those alone that were seen to move; of the others their versions tell that they did not.

    Cost: one copy of the parameters without gradients, once; then a look at the version of each parameter.
    """

    def __init__(self) -> None:
        self._known: dict[int, nn.Parameter] | None = None  # by id; None before the first pass

    def watch(self, modules: list[nn.Module], tensors: list[torch.Tensor], copies: TensorCopies) -> Watched:
        """Begin a pass: copy `tensors`, and the parameters of `modules` that may be moved."""
        owned = [own for module in modules if (own := cast("Any", module)._parameters)]
        parameters = [parameter for own in owned for parameter in own.values() if parameter is not None]
        if self._known is None:
            kept = [parameter for parameter in parameters if not parameter.requires_grad]
        else:
            kept = [*self._known.values()]
        kept = [one for one in kept if type(one) is nn.Parameter]  # others are spread over devices, or packed
        try:
            copies.save([*tensors, *kept])
        except torch.OutOfMemoryError:
            if self._known is not None:
                raise
            kept = []
            copies.save(tensors)
        versions = [(parameter, parameter._version) for parameter in parameters if not parameter.is_inference()]
        return Watched(versions, {id(parameter) for parameter in kept})

    def look(self, module: nn.Module, watched: Watched) -> None:
        """Note what has moved; to be called before copies are put back."""
        found = watched.moved()
        if late := found.keys() - watched.copied:
            names = [name for name, parameter in module.named_parameters() if id(parameter) in late]
            warnings.warn(
                f"A scoring pass leaves the module as it is, but {type(module).__name__}.training_step began to move "
                f"{len(late)} of its parameters in it ({', '.join(names[:3])}), which was not to be expected: "
                "they were moved once more than training alone would have. From now on they are put back. Move them in "
                "on_train_batch_end, so that passes leave them alone.",
                stacklevel=2,
            )
        self._known = {**(self._known or {}), **found}
