"""Networks have the published sizes, and the shapes that a classifier needs."""

import pytest
import torch
from hydra import compose
from torch import nn

from experiments.build import build
from experiments.errors import UsageError
from experiments.models import WideResNet
from tests.experiments.conftest import CONF

PARAMETERS = {  # at 3 channels, 32 pixels, 10 classes
    "resnet18": 11_173_962,  # kuangliu/pytorch-cifar: 11.17 M
    "wide_resnet": 36_479_194,  # Zagoruyko & Komodakis, table 4: 36.5 M
    "wide_resnet_16_8": 10_961_370,  # the same: 11.0 M
    "wide_resnet_16_2": 691_674,  # the same: 0.7 M
    "mobilenet_v2": 2_296_922,  # kuangliu/pytorch-cifar: 2.3 M
    "densenet": 6_956_298,  # kuangliu/pytorch-cifar, DenseNet121 with growth 32: 7.0 M
    "cnn_small": 304_154,
}
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))

pytestmark = pytest.mark.usefixtures("composing")


def model(name: str, channels: int = 3, size: int = 32, classes: int = 10, *overrides: str) -> nn.Module:
    config = compose("train", [f"model={name}", "out=somewhere", *overrides])
    with torch.device("meta"):
        return build(config, "model", channels=channels, size=size, classes=classes)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_published_size(name: str) -> None:
    assert sum(parameter.numel() for parameter in model(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "size", "classes"), [(3, 32, 100), (1, 8, 10)])
def test_logits(name: str, channels: int, size: int, classes: int) -> None:
    net = model(name, channels, size, classes)
    assert net(torch.empty(2, channels, size, size, device="meta")).shape == (2, classes)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_used(name: str) -> None:
    net = model(name)
    net(torch.empty(2, 3, 32, 32, device="meta")).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mlp"])
def test_too_small_images(name: str) -> None:
    with pytest.raises(UsageError, match="at least 8 pixels a side, received 4; choose model=mlp"):
        model(name, size=4)


def test_dropout_reaches_wide_resnet() -> None:
    net = model("wide_resnet_16_2", 3, 32, 10, "model.dropout=0.3")
    rates = {module.p for module in net.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.3}


def test_wide_resnet_starts_with_finite_unit_scale() -> None:
    torch.manual_seed(0)
    logits = WideResNet(channels=3, size=32, classes=10, depth=16, widen=2, dropout=0.0)(torch.randn(8, 3, 32, 32))
    assert logits.isfinite().all()
    assert 0.05 < logits.std() < 5


def test_wide_resnet_depth() -> None:
    with pytest.raises(UsageError, match="6 n \\+ 4 with n >= 1, received 27"):
        model("wide_resnet", 3, 32, 10, "model.depth=27")
