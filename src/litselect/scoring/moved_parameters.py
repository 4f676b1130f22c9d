"""Parameters that a step moves by itself."""

from __future__ import annotations

import warnings
from operator import attrgetter
from typing import Any, Final, cast

import torch
from torch import nn

from litselect.scoring.tensor_copies import TensorCopies

_version_of: Final = attrgetter("_version")


class Watched:
    """The parameters of one pass.

    Args:
        parameters: all of them.
        copied: ids of those of which there are copies.
    """

    def __init__(self, parameters: list[nn.Parameter], copied: set[int]) -> None:
        self._parameters, self.copied = parameters, copied
        self._versions = [*map(_version_of, parameters)]

    def moved(self) -> dict[int, nn.Parameter]:
        """Those that have another version by now."""
        versions = [*map(_version_of, self._parameters)]
        if versions == self._versions:
            return {}
        pairs = zip(self._parameters, versions, self._versions, strict=True)
        return {id(parameter): parameter for parameter, now, before in pairs if now != before}

    def renew(self) -> None:
        """What was put back has a new version, too: that counts from now on."""
        self._versions = [*map(_version_of, self._parameters)]


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
        if any(map(torch.is_inference, parameters)):  # which nothing may change in place: they have no version
            parameters = [parameter for parameter in parameters if not parameter.is_inference()]
        return Watched(parameters, {*map(id, kept)})

    def look(self, module: nn.Module, watched: Watched) -> bool:
        """Note what has moved; to be called before copies are put back. Answers whether anything has."""
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
        return bool(found)
