"""Networks for small images, all called as `Model(channels=, size=, classes=, ...)`."""

from experiments.models.cnn_small import CnnSmall
from experiments.models.cnn_tiny import CnnTiny
from experiments.models.densenet import DenseNet
from experiments.models.mlp import Mlp
from experiments.models.mobilenet_v2 import MobileNetV2
from experiments.models.resnet import ResNet
from experiments.models.wide_resnet import WideResNet

__all__ = ["CnnSmall", "CnnTiny", "DenseNet", "Mlp", "MobileNetV2", "ResNet", "WideResNet"]
