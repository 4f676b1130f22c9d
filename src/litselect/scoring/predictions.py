"""Whether the network is right about an example."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from litselect.scoring.scores import Scores

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def predictions(scores: Scores) -> tuple[Float[Tensor, " batch"], Bool[Tensor, " batch"]] | None:
    """The probability of each example's class, and whether no other class is likelier.

    Returns:
        ``[N]`` float32 and ``[N]`` bool, or ``None`` where the loss is no cross-entropy of one class an example. An
        example that is ignored is not right.
    """
    logits, targets = scores.logits, scores.targets
    if logits is None or targets is None:
        return None
    classes = targets.argmax(1) if targets.is_floating_point() else targets
    if classes.ndim != 1:
        return None
    known = (classes >= 0) & (classes < logits.shape[1])
    classes = torch.where(known, classes, 0)[:, None]
    likely = logits.float().softmax(1).gather(1, classes).squeeze(1)
    best = logits.gather(1, classes).squeeze(1) >= logits.amax(1)
    return likely * known, best & known


def is_mixed(scores: Scores) -> bool:
    """Whether rows are two examples each, as mixup and cutmix make them. A host sync.

    Their targets are shared by exactly two of more classes, or the same logits are compared with two targets.
    """
    targets, others = scores.targets, scores.others
    if targets is not None and others is not None and targets.shape == others.shape:
        return not torch.equal(targets, others)
    if targets is None or not targets.is_floating_point() or targets.ndim != 2 or targets.shape[1] < 3:
        return False
    return bool(((targets > targets.amin(1, keepdim=True)).sum(1) == 2).any())  # label smoothing lifts all classes
