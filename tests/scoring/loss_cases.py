"""One call, or several, of every loss function of torch that reduces to a number."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N = 6
_G = torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Case:
    """A loss with its arguments: `rows` have one entry per example, `options` belong to the call.

    `module` is the loss module of the same name.
    """

    name: str
    rows: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    module: type[nn.Module] | None = None
    function: str = ""
    weighted: bool = False  # class weights: the loss of one example alone would divide them out

    @property
    def call(self) -> Callable[..., Tensor]:
        return getattr(F, self.function or self.name.split(",")[0])

    def __call__(self, reduction: str, rows: dict[str, Tensor] | None = None, **changes: Any) -> Tensor:
        return self.call(**(rows or self.rows), **{**self.options, **changes}, reduction=reduction)

    def only(self, i: int) -> dict[str, Tensor]:
        """The rows of one example."""
        return {name: t[:, i : i + 1] if name == "log_probs" else t[i : i + 1] for name, t in self.rows.items()}

    def through_module(self, reduction: str) -> Tensor:
        assert self.module is not None
        return self.module(**self.options, reduction=reduction)(*self.rows.values())


def real(*shape: int) -> Tensor:
    return torch.randn(N, *shape, generator=_G)


def unit(*shape: int) -> Tensor:
    return torch.rand(N, *shape, generator=_G) * 0.8 + 0.1


def whole(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, (N, *shape), generator=_G)


def sign(*shape: int) -> Tensor:
    return whole(2, *shape).float() * 2 - 1


def some_ignored(target: Tensor, value: int = -100) -> Tensor:
    """Ignored targets, unequally many in each row, none ignored altogether."""
    target = target.clone()
    flat = target.view(N, -1)
    for i in range(N):
        flat[i, 1 : 1 + i % flat.shape[1]] = value
    return target


CLASS_WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.5])
_POSITIONS = torch.tensor([2, 0, 3, -1])
_LABELS = torch.stack([_POSITIONS.roll(i % 2) if i % 2 else _POSITIONS for i in range(N)])

CASES = [
    Case("cross_entropy", {"input": real(4), "target": whole(4)}, {}, nn.CrossEntropyLoss),
    Case(
        "cross_entropy, smoothed", {"input": real(4), "target": whole(4)}, {"label_smoothing": 0.1}, nn.CrossEntropyLoss
    ),
    Case("cross_entropy, soft", {"input": real(4), "target": real(4).softmax(1)}, {}, nn.CrossEntropyLoss),
    Case(
        "cross_entropy, soft, weighted and smoothed",
        {"input": real(4), "target": real(4).softmax(1)},
        {"weight": CLASS_WEIGHT, "label_smoothing": 0.2},
        nn.CrossEntropyLoss,
    ),
    Case(
        "cross_entropy, weighted",
        {"input": real(4), "target": whole(4)},
        {"weight": CLASS_WEIGHT},
        nn.CrossEntropyLoss,
        weighted=True,
    ),
    Case(
        "cross_entropy, ignored",
        {"input": real(4, 5), "target": some_ignored(whole(4, 5))},
        {},
        nn.CrossEntropyLoss,
    ),
    Case(
        "cross_entropy, everything",
        {"input": real(4, 3, 2), "target": some_ignored(whole(4, 3, 2), 1)},
        {"weight": CLASS_WEIGHT, "ignore_index": 1, "label_smoothing": 0.1},
        nn.CrossEntropyLoss,
        weighted=True,
    ),
    Case("cross_entropy, segmentation", {"input": real(4, 3, 2), "target": whole(4, 3, 2)}, {}, nn.CrossEntropyLoss),
    Case("nll_loss", {"input": real(4).log_softmax(1), "target": whole(4)}, {}, nn.NLLLoss),
    Case(
        "nll_loss, weighted and ignored",
        {"input": real(4, 5).log_softmax(1), "target": some_ignored(whole(4, 5))},
        {"weight": CLASS_WEIGHT},
        nn.NLLLoss,
        weighted=True,
    ),
    Case("binary_cross_entropy", {"input": unit(3), "target": unit(3)}, {}, nn.BCELoss),
    Case("binary_cross_entropy, weighted", {"input": unit(3), "target": unit(3)}, {"weight": unit(3)[:1]}, nn.BCELoss),
    Case("binary_cross_entropy_with_logits", {"input": real(3), "target": unit(3)}, {}, nn.BCEWithLogitsLoss),
    Case(
        "binary_cross_entropy_with_logits, pos_weight",
        {"input": real(3), "target": unit(3)},
        {"pos_weight": torch.tensor([1.0, 2.0, 3.0])},
        nn.BCEWithLogitsLoss,
    ),
    Case("binary_cross_entropy_with_logits, flat", {"input": real(), "target": unit()}, {}, nn.BCEWithLogitsLoss),
    Case("mse_loss", {"input": real(3), "target": real(3)}, {}, nn.MSELoss),
    Case("mse_loss, three dimensions", {"input": real(3, 2), "target": real(3, 2)}, {}, nn.MSELoss),
    Case("mse_loss, flat", {"input": real(), "target": real()}, {}, nn.MSELoss),
    Case("l1_loss", {"input": real(3), "target": real(3)}, {}, nn.L1Loss),
    Case("smooth_l1_loss", {"input": real(3), "target": real(3)}, {"beta": 0.5}, nn.SmoothL1Loss),
    Case("huber_loss", {"input": real(3), "target": real(3)}, {"delta": 0.5}, nn.HuberLoss),
    Case("kl_div", {"input": real(3).log_softmax(1), "target": real(3).softmax(1)}, {}, nn.KLDivLoss),
    Case(
        "kl_div, log target",
        {"input": real(3).log_softmax(1), "target": real(3).log_softmax(1)},
        {"log_target": True},
        nn.KLDivLoss,
    ),
    Case("poisson_nll_loss", {"input": real(3), "target": whole(5, 3).float()}, {"full": True}, nn.PoissonNLLLoss),
    Case("gaussian_nll_loss", {"input": real(3), "target": real(3), "var": unit(3)}, {}, nn.GaussianNLLLoss),
    Case("hinge_embedding_loss", {"input": real(3), "target": sign(3)}, {"margin": 0.5}, nn.HingeEmbeddingLoss),
    Case("soft_margin_loss", {"input": real(3), "target": sign(3)}, {}, nn.SoftMarginLoss),
    Case("multi_margin_loss", {"input": real(4), "target": whole(4)}, {}, nn.MultiMarginLoss),
    Case(
        "multi_margin_loss, weighted",
        {"input": real(4), "target": whole(4)},
        {"weight": CLASS_WEIGHT},
        nn.MultiMarginLoss,
    ),
    Case("multilabel_margin_loss", {"input": real(4), "target": _LABELS}, {}, nn.MultiLabelMarginLoss),
    Case("multilabel_soft_margin_loss", {"input": real(4), "target": unit(4)}, {}, nn.MultiLabelSoftMarginLoss),
    Case("cosine_embedding_loss", {"input1": real(3), "input2": real(3), "target": sign()}, {}, nn.CosineEmbeddingLoss),
    Case("margin_ranking_loss", {"input1": real(), "input2": real(), "target": sign()}, {}, nn.MarginRankingLoss),
    Case(
        "triplet_margin_loss", {"anchor": real(3), "positive": real(3), "negative": real(3)}, {}, nn.TripletMarginLoss
    ),
    Case(
        "triplet_margin_with_distance_loss",
        {"anchor": real(3), "positive": real(3), "negative": real(3)},
        {"distance_function": nn.PairwiseDistance(p=1)},
        nn.TripletMarginWithDistanceLoss,
    ),
    Case(
        "ctc_loss",
        {
            "log_probs": torch.randn(9, N, 5, generator=_G).log_softmax(2),
            "targets": whole(4, 3) + 1,
            "input_lengths": torch.full((N,), 9),
            "target_lengths": torch.tensor([1, 2, 3, 3, 2, 1]),
        },
        {"zero_infinity": True},
    ),
]
if hasattr(F, "linear_cross_entropy"):
    CASES += [
        Case("linear_cross_entropy", {"input": real(3), "target": whole(4)}, {"linear_weight": real(3)[:4]}),
        Case(
            "linear_cross_entropy, ignored",
            {"input": real(3), "target": torch.tensor([1, -100, 2, 0, -100, 3])},
            {"linear_weight": real(3)[:4]},
        ),
    ]


def alone(case: Case, reduction: str) -> Tensor:
    """The slow reference: the loss of every example in a batch of its own, class weights left in."""
    losses = []
    for i in range(N):
        rows = case.only(i)
        if reduction == "mean" and case.weighted:
            ignored = rows["target"] == case.options.get("ignore_index", -100)
            losses.append(case("none", rows).sum() / (~ignored).sum().clamp_min(1))
        else:
            losses.append(case(reduction, rows))
    return torch.stack([torch.nan_to_num(loss) for loss in losses])  # an example that is ignored altogether has none
