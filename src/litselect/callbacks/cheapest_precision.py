"""The precision in which scoring costs least without choosing otherwise, as far as the hardware tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, cast

import torch

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

_CPU_UNITS: Final = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def cheapest_precision(trainer: Trainer) -> Literal["bf16"] | None:
    """bfloat16 beside training in fp32, where the hardware computes in it; otherwise the precision of training.

    Not measured, so that it is the same in every run on one kind of machine.
    """
    if trainer.precision != "32-true":
        return None
    return "bf16" if computes_in_bf16(trainer.strategy.root_device) else None


def computes_in_bf16(device: torch.device) -> bool:
    """Whether `device` has units for it: emulated, it takes longer than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return any(getattr(cast("Any", torch.cpu), name, bool)() for name in _CPU_UNITS)
    return False
