"""Parameters that a step moves by itself."""

from __future__ import annotations

import warnings
from operator import attrgetter
from typing import Any, Final, cast

import torch
from torch import nn

from litselect.scoring.tensor_copies import TensorCopies

_version_of: Final = attrgetter("_version")
_MOST: Final = 64


class Watched:
    """The parameters of one pass.

    Args:
        parameters: all of them.
        copied: by id, those of which there are copies.
    """

    def __init__(self, parameters: list[nn.Parameter], copied: dict[int, nn.Parameter]) -> None:
        self._parameters, self.copied = parameters, copied
        self._versions = [*map(_version_of, parameters)]

    def versions_of_trained(self) -> list[int]:
        """Of parameters that get gradients, as the pass began."""
        pairs = zip(self._parameters, self._versions, strict=True)
        return [version for parameter, version in pairs if parameter.requires_grad]

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

    At first passes keep copies of all that are not trained, if there is memory for them, and compare: until one comes
    after the first step of the optimizer, since before that a teacher is often what it is moved to. Later ones keep
    copies of those alone that were seen to move; of the others their versions tell that they did not, unless a step
    begins later to write through ``.data``, which makes no version.

    Cost: a copy of the parameters without gradients, in the passes of the first two batches or so (64 passes at most,
    for optimizers that write through ``.data``); then a look at the version of each parameter.
    """

    def __init__(self) -> None:
        self._known: dict[int, nn.Parameter] = {}  # by id
        self._quiet: set[int] = set()  # of those, ids of such as their version does not tell of
        self._began: list[int] | None = None  # versions of those that are trained
        self._passes_left = _MOST  # that compare

    def watch(self, modules: list[nn.Module], tensors: list[torch.Tensor], copies: TensorCopies) -> Watched:
        """Begin a pass: copy `tensors`, and the parameters of `modules` that may be moved."""
        owned = [own for module in modules if (own := cast("Any", module)._parameters)]
        parameters = [parameter for own in owned for parameter in own.values() if parameter is not None]
        if any(map(torch.is_inference, parameters)):  # which nothing may change in place: they have no version
            parameters = [parameter for parameter in parameters if not parameter.is_inference()]
        kept = [one for one in parameters if not one.requires_grad] if self._passes_left else [*self._known.values()]
        kept = [one for one in kept if type(one) is nn.Parameter]  # others are spread over devices, or packed
        copies.always = self._quiet
        try:
            copies.save([*tensors, *kept])
        except torch.OutOfMemoryError:
            if not self._passes_left:
                raise
            self._passes_left = 0  # versions have to do
            return self.watch(modules, tensors, copies)
        return Watched(parameters, {id(one): one for one in kept})

    def look(self, module: nn.Module, watched: Watched, copies: TensorCopies) -> bool:
        """Note what has moved; to be called before copies are put back. Answers whether anything has."""
        found = watched.moved()
        if self._passes_left:
            quiet = {key: one for key, one in watched.copied.items() if key not in found and copies.differs(one)}
            self._quiet.update(quiet)
            found |= quiet
            self._passes_left = 0 if self._has_stepped(watched) else self._passes_left - 1
        if late := found.keys() - watched.copied.keys():
            names = [name for name, parameter in module.named_parameters() if id(parameter) in late]
            warnings.warn(
                f"A scoring pass leaves the module as it is, but {type(module).__name__}.training_step began to move "
                f"{len(late)} of its parameters in it ({', '.join(names[:3])}), which was not to be expected: they "
                "were moved once more than training alone would have. From now on they are put back. Move them in "
                "on_train_batch_end, so that passes leave them alone.",
                stacklevel=2,
            )
        self._known |= found
        return bool(found)

    def _has_stepped(self, watched: Watched) -> bool:
        """Whether the optimizer has, since the first pass began; or there is none."""
        trained = watched.versions_of_trained()
        if self._began is None:
            self._began = trained
        return not trained or trained != self._began
