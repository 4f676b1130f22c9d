"""The gradient of cross-entropy at the logits, which needs no backward pass.

It bounds the norm of an example's whole gradient up to a factor that all examples share: Katharopoulos and Fleuret,
2018, "Not All Samples Are Created Equal", section 3.2, https://arxiv.org/abs/1803.00942
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
    from torch import Tensor

IGNORED: Final = -100  # torch's default ignore_index


def classes_second(logits: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes ..."]:
    """Logits ``[N, C, ...]``, C >= 2, in float32 or better; a single logit for two classes becomes two.

    >>> classes_second(torch.tensor([1.0, 2.0]))
    tensor([[0., 1.],
            [0., 2.]])
    """
    logits = logits.detach()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logits.ndim == 1:
        logits = logits[:, None]
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return logits


def logit_gradients(
    logits: Float[Tensor, "batch ..."], targets: Shaped[Tensor, "batch ..."]
) -> Float[Tensor, "batch features"]:
    r""":math:`\mathrm{softmax}(z) - y` of each example, flattened.

    Args:
        logits: ``[N, C]``, or ``[N, C, ...]`` for a loss at every position, or ``[N]`` or ``[N, 1]`` for two classes.
        targets: class indices ``[N, ...]`` (positions of -100 have no gradient), or probabilities of the logits'
            shape (soft labels, mixup); for a single logit, the probability of its class.

    Returns:
        ``[N, C * positions]``, the gradient of the mean over the positions that count.

    Raises:
        ValueError: if the shapes don't fit, or (on the CPU) a class index is out of range.

    >>> logit_gradients(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([[ 0.5000, -0.5000]])
    """
    z = classes_second(logits)
    n, classes = z.shape[:2]
    positions = (n, *z.shape[2:])
    targets = targets.detach()
    single = logits.ndim == 1 or logits.shape[1] == 1
    if single and targets.shape in (logits.shape, positions):
        y = targets.to(z.dtype).reshape(n, 1, *z.shape[2:])
        targets = torch.cat([1 - y, y], 1)
    if targets.shape == z.shape and targets.is_floating_point():
        return ((z.softmax(1) - targets.to(z.dtype)) / z[0, 0].numel()).reshape(n, -1)
    if targets.shape != positions or targets.is_floating_point():
        raise ValueError(
            f"Expected targets as class indices of shape {positions} (int64) or as probabilities of shape "
            f"{tuple(z.shape)}, but got {targets.dtype} of shape {tuple(targets.shape)}. Pass what the loss compares "
            "the logits with; use a selector that looks at losses where it isn't cross-entropy."
        )
    targets = targets.long()
    counts = targets != IGNORED
    if targets.device.type == "cpu" and (counts & ((targets < 0) | (targets >= classes))).any():
        raise ValueError(
            f"Expected class indices from 0 to {classes - 1} (or {IGNORED} for positions without a loss), but got "
            f"{int(targets.min())} to {int(targets.max())}. Are these the targets of these logits?"
        )
    onehot = torch.zeros_like(z).scatter_(1, targets.clamp_min(0).unsqueeze(1), 1.0)
    gradient = (z.softmax(1) - onehot) * counts.unsqueeze(1)
    return gradient.reshape(n, -1) / counts.reshape(n, -1).sum(1, keepdim=True).clamp_min(1)
