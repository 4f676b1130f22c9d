"""The losses of single examples, read off the graph of their mean."""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from litselect.scoring.loss_call import LossCall
from litselect.scoring.scores import Scores

_NODES: Final = frozenset({"NllLossBackward0", "NllLoss2DBackward0"})
_REDUCTIONS: Final = {1: "mean", 2: "sum"}  # as torch's kernels name them
_HOOKS: Final = getattr(cast("Any", torch)._C._autograd, "_top_saved_tensors_default_hooks", None)


def keeps_as_they_are() -> bool:
    """Whether autograd keeps the tensors themselves: under activation checkpointing a look would compute them anew."""
    return _HOOKS is not None and _HOOKS(True) is None


def recomputes() -> bool:
    """Whether this runs within an activation checkpoint that runs it again, on the way backward."""
    hooks: Any = None if _HOOKS is None else _HOOKS(True)
    return hooks is not None and getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint"


def is_cross_entropy(loss: Any) -> bool:
    """Whether `loss` is the mean or sum of a cross-entropy and nothing else, its labels neither soft nor smoothed."""
    node: Any = loss.grad_fn if isinstance(loss, Tensor) else None
    return node is not None and node.name() in _NODES and node._saved_reduction in _REDUCTIONS


def cross_entropy_in(total: Any, n: int) -> Scores | None:
    """What a training step's loss says of its `n` examples, where it is a cross-entropy and nothing else.

    Autograd keeps the log-probabilities and the targets for the backward pass: nothing is listened to while the step
    runs, and nothing is computed twice. To be called before the loss goes backward.

    Args:
        total: the loss.
        n: the number of examples that it is the mean or the sum over.

    Returns:
        The scores, with log-probabilities as logits where they are that; or ``None``, where the loss is anything else.
    """
    if not is_cross_entropy(total):
        return None
    node: Any = total.grad_fn
    log_probabilities, targets = cast("Tensor", node._saved_self).detach(), cast("Tensor", node._saved_target)
    ignored: int = node._saved_ignore_index  # unsigned
    call = LossCall(
        F.nll_loss,
        {
            "input": log_probabilities,
            "target": targets,
            "weight": node._saved_weight,
            "ignore_index": ignored - 2**64 if ignored >= 2**63 else ignored,
        },
        _REDUCTIONS[node._saved_reduction],
    )
    with torch.no_grad():
        elements = call.elements()
        own = call.per_example(elements, n)
    if own is None:
        return None
    source = node.next_functions[0][0]  # nll_loss takes any numbers
    one_each = log_probabilities.ndim == 2 and len(log_probabilities) == n and source.name() == "LogSoftmaxBackward0"
    return Scores(own.float(), log_probabilities, targets) if one_each else Scores(own.float())
