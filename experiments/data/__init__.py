"""Images in memory: where they come from, how they are corrupted on purpose, batched and augmented."""

from experiments.data.cifar import Cifar
from experiments.data.digits import Digits
from experiments.data.image_data import ImageData
from experiments.data.image_folder import ImageFolder
from experiments.data.images import Images
from experiments.data.source import Source
from experiments.data.svhn import Svhn

__all__ = ["Cifar", "Digits", "ImageData", "ImageFolder", "Images", "Source", "Svhn"]
