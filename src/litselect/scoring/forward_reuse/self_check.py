"""Whether a replay gives the gradient that it should."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from litselect.scoring.forward_reuse.plan import Plan
from litselect.scoring.forward_reuse.reference import DrawnValues, Reference, norm_of
from litselect.scoring.forward_reuse.replay import Replay
from litselect.scoring.forward_reuse.unsupported import Unsupported
from litselect.scoring.rows import take_rows

if TYPE_CHECKING:
    from litselect.scoring.forward_reuse.engine import Recording


def check(plan: Plan, recording: Recording, rows: Tensor, module: nn.Module) -> bool:
    """Compare a replay with a real forward and backward of the same rows. The caller puts back what it leaves.

    The real one gets the dropout masks and the batch statistics of the forward of N rows. Examples that influence each
    other show in its results, tensors that were kept where no one sees them in its gradient.

    Returns:
        Whether this settles it: every parameter has a gradient.

    Raises:
        Unsupported: if they differ, with the number.
    """
    step, restore, limit = recording.step, recording.trace.put_back, tolerance(recording.recorder.saved)
    some = take_rows(recording.batch, rows, recording.n)
    ours = gradients_of(Replay(plan, recording.recorder, rows).run(lambda: step(some)), module)
    restore()
    values = DrawnValues(len(plan.calls)).collect(lambda: step(recording.batch))
    restore()
    reference = Reference(plan, recording.recorder, rows, values)
    theirs = gradients_of(reference.run(lambda: step(some)), module)
    if reference.difference > limit:
        raise Unsupported(
            f"examples influence each other: rows that are computed alone differ by {reference.difference:.1e} from "
            f"what they are among all candidates (at most {limit:.0e} is rounding)"
        )
    if reference.reduced > limit:
        raise Unsupported(
            "training_step reduces over the examples before its first loss, and that is over all candidates (let it do "
            f"so after the loss; {reference.reduced:.1e} is the difference)"
        )
    if ours is None or theirs is None:
        return False
    error, settled = compare_gradients(ours, theirs)
    if not error <= limit:
        raise Unsupported(f"its gradient is wrong by {error:.1e} (at most {limit:.0e} is rounding)")
    return settled


def gradients_of(output: Any, module: nn.Module) -> list[Tensor | None] | None:
    """Of what a training step returned; ``None`` where that has none."""
    loss = cast("Mapping[str, Any]", output).get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return None
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, parameters, torch.ones_like(loss), allow_unused=True)
    return list(cast("tuple[Tensor | None, ...]", found))


def compare_gradients(one: list[Tensor | None], other: list[Tensor | None]) -> tuple[float, bool]:
    """The largest difference of two gradients in any parameter, and whether no parameter's gradient was all zeros.

    Relative to that parameter's gradient and a hundredth of the whole.
    """
    if [gradient is None for gradient in one] != [gradient is None for gradient in other]:
        return float("inf"), True
    pairs = [(_dense(a), _dense(b)) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    norms = [norm_of(b) for _, b in pairs]
    if not norms:
        return 0.0, False
    whole = norm_of(torch.stack(norms))
    errors = [
        norm_of(a - b) / (norm + 0.01 * whole).clamp_min(1e-30) for (a, b), norm in zip(pairs, norms, strict=True)
    ]
    return float(torch.stack(errors).max().nan_to_num(float("inf"))), bool((torch.stack(norms) > 0).all())


def tolerance(saved: list[Tensor]) -> float:
    """How much two computations in the precision of `saved` may differ."""
    kinds = {tensor.dtype for tensor in saved}
    if torch.bfloat16 in kinds:
        return 5e-2
    on_device = any(tensor.is_cuda for tensor in saved)
    rounded = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    return 1e-2 if torch.float16 in kinds or (on_device and rounded) else 1e-3


def _dense(gradient: Tensor) -> Tensor:
    gradient = gradient.detach()
    return (gradient.to_dense() if gradient.layout is not torch.strided else gradient).double()
