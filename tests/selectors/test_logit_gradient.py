"""The gradient at the logits, against autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litselect.selectors.logit_gradient import logit_gradients


def by_autograd(logits: Tensor, targets: Tensor) -> Tensor:
    """One example at a time, through the loss itself."""
    rows = []
    for z, y in zip(logits.double(), targets, strict=True):
        z = z.clone().requires_grad_()
        if z.numel() == 1 or (z.shape == y.shape and z.ndim == 0):
            loss = F.binary_cross_entropy_with_logits(z, y.double().reshape(z.shape))
        else:
            loss = F.cross_entropy(z[None], y[None] if not y.is_floating_point() else y[None].double())
        rows.append(torch.autograd.grad(loss, z)[0].reshape(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("shape", [(6, 2), (6, 5), (6, 5, 3), (6, 4, 2, 3)])
def test_classes(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, dtype=torch.float64)
    targets = torch.randint(shape[1], (shape[0], *shape[2:]))
    assert torch.allclose(logit_gradients(logits, targets), by_autograd(logits, targets))


def test_ignored_positions() -> None:
    logits, targets = torch.randn(3, 5, 4, dtype=torch.float64), torch.randint(5, (3, 4))
    targets[0, :3] = -100
    targets[1, 1] = -100
    assert torch.allclose(logit_gradients(logits, targets), by_autograd(logits, targets))
    targets[2] = -100
    assert (logit_gradients(logits, targets)[2] == 0).all()


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_soft_targets(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, dtype=torch.float64)
    targets = torch.randn(shape, dtype=torch.float64).softmax(1)
    assert torch.allclose(logit_gradients(logits, targets), by_autograd(logits, targets))


@pytest.mark.parametrize(("shape", "of_targets"), [((6,), (6,)), ((6, 1), (6,)), ((6, 1), (6, 1))])
@pytest.mark.parametrize("soft", [True, False])
def test_a_single_logit(shape: tuple[int, ...], of_targets: tuple[int, ...], soft: bool) -> None:
    logits = torch.randn(shape, dtype=torch.float64)
    targets = torch.rand(of_targets) if soft else torch.randint(2, of_targets)
    gradients = logit_gradients(logits, targets)
    assert torch.allclose(gradients[:, 1:], by_autograd(logits.reshape(6, 1), targets.reshape(6, 1)))
    assert torch.allclose(gradients[:, 0], -gradients[:, 1])  # of the other class's logit, which is 0


def test_half_precision_is_computed_in_single() -> None:
    assert logit_gradients(torch.randn(3, 4).half(), torch.zeros(3, dtype=torch.int64)).dtype == torch.float32


@pytest.mark.usefixtures("any_shape")
@pytest.mark.parametrize("targets", [torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64)])
def test_targets_of_another_loss_are_refused(targets: Tensor) -> None:
    with pytest.raises(ValueError, match=r"Expected targets as class indices of shape \(4,\) \(int64\) or as prob"):
        logit_gradients(torch.zeros(4, 2), targets)


@pytest.mark.parametrize("label", [2, -1, -101])
def test_class_indices_out_of_range_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=r"class indices from 0 to 1 .* but got"):
        logit_gradients(torch.zeros(2, 2), torch.tensor([0, label]))
