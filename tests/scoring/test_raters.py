"""What raters look at, and how they answer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring import ImageRater, LabelledImageRater, StatisticsRater, TableRater
from litselect.scoring.raters import asks_for, default_fields, rate, statistics_of

IMAGES, LABELS = torch.rand(6, 3, 12, 12), torch.tensor([0, 1, 2, 3, 0, 1])
KNOWN: dict[str, Any] = {
    "inputs": IMAGES, "targets": LABELS, "ids": torch.arange(6), "statistics": torch.rand(6, 5)
}  # fmt: skip


class Rater(nn.Module):
    """Answers as a test says."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, inputs: Tensor) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("rater", "names"),
    [
        (ImageRater(3), ("inputs",)),
        (LabelledImageRater(3, 4), ("inputs", "targets")),
        (TableRater(6), ("ids",)),
        (StatisticsRater(), ("statistics",)),
        (nn.Sequential(nn.Flatten(), nn.Linear(432, 1)), ("inputs",)),
    ],
)
def test_raters_ask_by_name(rater: nn.Module, names: tuple[str, ...]) -> None:
    assert asks_for(rater) == names
    assert rate(rater, KNOWN).shape == (6,)
    for name in names:
        with pytest.raises(ValueError, match=rf"needs {name}, but only .* is known of the batch. Pass `fields="):
            rate(rater, {**{k: v for k, v in KNOWN.items() if k != name}, name: None})


def test_what_is_optional_may_be_missing() -> None:
    class Optional(nn.Module):
        def forward(self, inputs: Tensor, targets: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
            return scale * (inputs.mean((1, 2, 3)) if targets is None else targets.float())

    assert rate(Optional(), KNOWN).equal(2.0 * LABELS)
    assert rate(Optional(), {"inputs": IMAGES}).equal(2 * IMAGES.mean((1, 2, 3)))


def test_arguments_that_nobody_can_fill() -> None:
    class Strange(nn.Module):
        def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
            return inputs

    class Stranger(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a

    for rater in (Strange(), Stranger()):
        with pytest.raises(ValueError, match=r"by name, or one argument for the inputs, but that of Strange.*Rename"):
            asks_for(rater)


@pytest.mark.parametrize("answer", [torch.zeros(6, 2), torch.zeros(5), torch.tensor(0.0), [0.0] * 6])
def test_answers_of_another_shape_are_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"one number per example, a tensor of shape \(6,\), but Rater answered with"):
        rate(Rater(answer), KNOWN)


def test_half_precision_is_raised() -> None:
    assert rate(Rater(torch.zeros(6, 1, dtype=torch.bfloat16)), KNOWN).dtype == torch.float32
    assert rate(Rater(torch.zeros(6, dtype=torch.float64)), KNOWN).dtype == torch.float64


# ---------------------------------------------------------------------- the raters


def perturbed(rater: nn.Module) -> nn.Module:
    """With a head that is no longer zero."""
    with torch.no_grad():
        for p in rater.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return rater


@pytest.mark.parametrize(
    "make", [lambda: ImageRater(3, size=8), lambda: LabelledImageRater(3, 4), lambda: StatisticsRater()]
)
def test_an_example_is_rated_by_itself(make: Any) -> None:
    rater = perturbed(make()).train()
    whole = rate(rater, KNOWN)
    assert whole.std() > 0
    for i in range(6):
        alone = rate(rater, {name: value[i : i + 1] for name, value in KNOWN.items()})
        torch.testing.assert_close(alone, whole[i : i + 1])


@pytest.mark.parametrize(
    "make", [lambda: ImageRater(3), lambda: LabelledImageRater(3, 4), lambda: StatisticsRater(), lambda: TableRater(6)]
)
def test_all_begin_with_one_rating(make: Any) -> None:
    assert rate(make(), KNOWN).eq(0).all()


def test_a_label_picks_its_output() -> None:
    rater = perturbed(LabelledImageRater(3, 4))
    outputs = rater._outputs(IMAGES)  # type: ignore[operator]
    assert rate(rater, KNOWN).equal(outputs[range(6), LABELS])


def test_images_are_normalised_and_scaled() -> None:
    plain, own = ImageRater(3, size=8), ImageRater(3, size=8, mean=[1.0, 2.0, 3.0], std=2.0)
    perturbed(plain)
    own.load_state_dict(plain.state_dict())
    torch.testing.assert_close(own(2 * IMAGES + torch.tensor([1.0, 2, 3]).view(3, 1, 1)), plain(IMAGES))
    seen: list[Any] = []
    plain.features.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    for shape in ((8, 8), (8, 12), (12, 8)):
        plain(torch.rand(1, 3, *shape))
    assert set(seen) == {(1, 3, 8, 8)}
    plain(torch.randint(255, (1, 3, 8, 8), dtype=torch.uint8))


def test_any_width_goes() -> None:
    for width in (1, 2, 6, 16):
        assert ImageRater(1, width)(torch.rand(2, 1, 8, 8)).shape == (2,)


# ---------------------------------------------------------------------- statistics and fields


def test_statistics() -> None:
    logits = torch.tensor([[4.0, 0, 0], [0, 0, 0], [0, 0, 9.0]], requires_grad=True)
    targets = torch.tensor([0, 1, 0])
    losses = F.cross_entropy(logits, targets, reduction="none")
    found = statistics_of(losses, logits, targets)
    assert not found.requires_grad
    shares = logits.detach().softmax(1)
    loss, probability, margin, entropy, percentile = found.T
    torch.testing.assert_close(loss, losses.detach().log1p())
    torch.testing.assert_close(probability, shares[range(3), targets])
    torch.testing.assert_close(
        margin, torch.stack([shares[0, 0] - shares[0, 1], shares[1, 0] * 0, shares[2, 0] - shares[2, 2]])
    )
    torch.testing.assert_close(entropy[1], torch.tensor(1.0))
    assert percentile.argsort().tolist() == losses.argsort().tolist()
    soft = statistics_of(losses, logits, F.one_hot(targets, 3).float())
    torch.testing.assert_close(soft, found)
    assert statistics_of(losses, logits * float("1e4"), torch.tensor([-100, 1, 0])).isfinite().all()


class Encoding(dict[str, Any]):
    pass


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        (IMAGES, {"inputs"}),
        ((IMAGES,), {"inputs"}),
        ([IMAGES, LABELS], {"inputs", "targets"}),
        ((IMAGES, LABELS, LABELS), {"inputs", "targets", "ids"}),
        ((IMAGES, ["a"] * 6), {"inputs"}),
        ({"x": IMAGES, "label": LABELS, "name": ["a"] * 6}, {"inputs", "targets"}),
        (Encoding(input_ids=LABELS, labels=LABELS, idx=LABELS), {"inputs", "targets", "ids"}),
    ],
)
def test_fields_of_the_usual_batches(batch: Any, names: set[str]) -> None:
    assert set(default_fields(batch)) == names


@pytest.mark.parametrize("batch", [{"foo": IMAGES}, ("a", "b"), 3, {"x": "a"}])
def test_other_batches_need_fields(batch: Any) -> None:
    with pytest.raises(ValueError, match=r"in which none was found. Pass `fields="):
        default_fields(batch)
