"""What a model of the held-out rows finds by itself."""

from experiments.build import build
from experiments.data import ImageData
from experiments.irreducible import Table, make_table
from experiments.rater_study.setting import Setting, parts
from experiments.rating.auroc import auroc


def control(setting: Setting, seed: int) -> float:
    """The AUROC of minus its losses; the model is trained if it is not there."""
    request = setting.request("rater", seed)
    config = request.config
    file = setting.folder / f"rater-seed{seed}-heldout-{config.trainer.max_epochs}.safetensors"
    if not file.exists():
        make_table(config, file, parts(config), cross_fit=False, by_accuracy=True)
    data = ImageData(build(config, "data"), seed, parts(config))
    return auroc(-Table(str(file)).losses(), ~data.corrupted)
