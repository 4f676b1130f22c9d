"""The optimizer of a live module, as a function that can be differentiated."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from litselect.scoring.meta_gradients import SGD, Adam, InnerOptimizer
from litselect.scoring.meta_gradients.inner_optimizer import Moments

_MOMENTS = ("momentum_buffer", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StudentOptimizer(InnerOptimizer):
    """Updates of several kinds for several groups of parameters, after their gradient was clipped.

    Moments have a place for every parameter, whether its group uses it or not.

    Args:
        groups: an update, and the places of the parameters that it is for.
        clip_norm: largest norm of all gradients together, 0 for any; the factor counts as a constant.
        clip_value: largest absolute value of a gradient, 0 for any.
    """

    groups: list[tuple[InnerOptimizer, list[int]]]
    clip_norm: float = 0.0
    clip_value: float = 0.0

    def begin(self, parameters: list[Tensor]) -> Moments:
        """Zeros."""
        return {name: [torch.zeros_like(p) for p in parameters] for name in _MOMENTS}

    def update(
        self, parameters: list[Tensor], moments: Moments, gradients: list[Tensor], steps: int
    ) -> tuple[list[Tensor], Moments]:
        """One step."""
        gradients = self._clipped(gradients)
        parameters, moments = list(parameters), {name: list(moment) for name, moment in moments.items()}
        for optimizer, places in self.groups:
            own = {name: [moment[place] for place in places] for name, moment in moments.items()}
            updated, after = optimizer.update(
                [parameters[place] for place in places], own, [gradients[place] for place in places], steps
            )
            for index, place in enumerate(places):
                parameters[place] = updated[index]
                for name, moment in after.items():
                    moments[name][place] = moment[index]
        return parameters, moments

    def _clipped(self, gradients: list[Tensor]) -> list[Tensor]:
        if self.clip_norm:
            norm = torch.stack([g.detach().square().sum() for g in gradients]).sum().sqrt()
            factor = (self.clip_norm / (norm + 1e-6)).clamp_max(1.0)  # as torch.nn.utils.clip_grad_norm_
            gradients = [factor * g for g in gradients]
        if self.clip_value:
            gradients = [g.clamp(-self.clip_value, self.clip_value) for g in gradients]
        return gradients


def read_optimizer(
    optimizer: Any, parameters: list[Tensor], clip: tuple[float, str | None]
) -> tuple[StudentOptimizer, Moments, int]:
    """The update that `optimizer` is about to make, with its moments and the number of steps behind it. Reads only.

    Args:
        optimizer: of torch.
        parameters: the module's, in some order.
        clip: the Trainer's largest gradient and what it is a limit of.
    """
    places = {id(p): place for place, p in enumerate(parameters)}
    groups: list[tuple[InnerOptimizer, list[int]]] = []
    for group in optimizer.param_groups:
        own = [places[id(p)] for p in group["params"] if id(p) in places]
        groups.append((_update_of(optimizer, group), own))
    limit, kind = clip
    whole = StudentOptimizer(groups, 0.0 if kind == "value" else limit, limit if kind == "value" else 0.0)
    states = [cast("dict[str, Any]", optimizer.state.get(p, {})) for p in parameters]
    moments = {
        name: [
            torch.zeros_like(p) if state.get(name) is None else state[name].detach()
            for p, state in zip(parameters, states, strict=True)
        ]
        for name in _MOMENTS
    }
    counts = [int(state["step"]) for state in states if "step" in state]
    began = any(state.get("momentum_buffer") is not None for state in states)
    return whole, moments, max(counts, default=int(began))


def _update_of(optimizer: Any, group: dict[str, Any]) -> InnerOptimizer:
    lr, decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    plain = not (group.get("amsgrad") or group.get("maximize"))
    if isinstance(optimizer, torch.optim.SGD) and plain:
        return SGD(lr, float(group["momentum"]), float(group["dampening"]), decay, bool(group["nesterov"]))
    if isinstance(optimizer, torch.optim.Adam) and plain:  # AdamW is one, too
        first, second = (float(beta) for beta in group["betas"])
        decoupled = bool(group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)))
        return Adam(lr, (first, second), float(group["eps"]), decay, decoupled, "outside")
    warnings.warn(
        "A look-ahead makes the update of SGD, Adam or AdamW (without amsgrad and maximize), but the module's "
        f"optimizer is {type(optimizer).__name__}: it is taken for plain SGD with the same learning rate, so that "
        "examples are judged by the direction of their gradients alone.",
        stacklevel=2,
    )
    return SGD(lr)
