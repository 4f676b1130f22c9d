"""What a classifier is worth on a whole set, beyond its mean accuracy."""

from typing import Any

from torch import Tensor

BINS = 15


def class_accuracy(logits: Tensor, labels: Tensor) -> list[float | None]:
    """The accuracy of each class among its own examples; None for a class that has none.

    Args:
        logits: `[N, classes]` float.
        labels: `[N]` int64.
    """
    classes = logits.shape[1]
    right = labels[logits.argmax(1) == labels].bincount(minlength=classes).tolist()
    rows = labels.bincount(minlength=classes).tolist()
    return [hits / all_of if all_of else None for hits, all_of in zip(right, rows, strict=True)]


def calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """The expected calibration error of the predicted class (Guo et al. 2017).

    Examples are sorted by confidence p into equal bins (0, 1/bins], ..., (1 - 1/bins, 1]; the error is
    sum over bins of |hits - sum of p| / N.

    Args:
        logits: `[N, classes]` float.
        labels: `[N]` int64.
        bins: how many.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    excess = (predicted == labels).double() - confidence
    bin_of = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    return float(excess.new_zeros(bins).index_add_(0, bin_of, excess).abs().sum() / len(labels))


def describe(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """All of the above under the names of `summary.json`, and the accuracy of the worst class."""
    by_class = class_accuracy(logits, labels)
    return {
        "worst_class_accuracy": min(accuracy for accuracy in by_class if accuracy is not None),
        "calibration_error": calibration_error(logits, labels),
        "class_accuracy": by_class,
    }
