"""The data sets of the studies, each spoilt in one way, and the folders of what is computed on them."""

from dataclasses import dataclass
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments import flops
from experiments.build import build
from experiments.data import ImageData, Images, Source
from experiments.errors import UsageError
from experiments.rating.folder import RaterFolder
from experiments.rating.making import make_rater
from experiments.request import Request

MEANING = {
    f"{data}_{name}": f"{data.capitalize()}, {meaning}"
    for data in ("digits", "images")
    for name, meaning in (
        ("clean", "clean"),
        ("labels20", "20 % wrong labels"),
        ("labels40", "40 % wrong labels"),
        ("labels40_same", "40 % wrong labels, of the held-out rows as well"),
        ("labels40_few", "40 % wrong labels, few held-out rows"),
        ("pixels40", "40 % shuffled pixels"),
        ("pixels40_image", "40 % shuffled pixels, rater without labels"),
    )
}


@dataclass(frozen=True)
class Setting:
    """A data set, what is done to it, and how it is trained on.

    Attributes:
        name: of the setting.
        overrides: the command line that makes it.
        folder: of all results on it.
    """

    name: str
    overrides: tuple[str, ...]
    folder: Path

    def request(self, name: str, seed: int, *more: str) -> Request:
        """A run on this setting, in the folder `name` with the seed."""
        out = self.folder / f"{name}-seed{seed}"
        line = [*self.overrides, *more, f"seed={seed}"]
        whole = compose("train", [*line, "progress=false", f"out='{out}'"], return_hydra_config=True)
        choices = {str(group): str(option) for group, option in whole.hydra.runtime.choices.items()}
        config = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
        meta = "-short" if any(change.startswith("meta.") for change in more) else ""
        made = f"{config.trainer.max_epochs}-seed{seed}"  # what is trained for longer has models that are, too
        table = self.folder / f"irreducible-{made}.safetensors"
        # a rater does not depend on how long others train; its name carries no epochs
        rater = self.folder / f"rater{meta}-seed{seed}"
        return Request(config, choices, line, out, table, rater)

    def epoch(self) -> int:
        """Operations of an epoch of plain training."""
        config = self.request("rater", 0).config
        train = ImageData(build(config, "data"), 0, parts(config)).train
        _, channels, _, size = train.pixels.shape
        net = build(config, "model", channels=channels, size=size, classes=train.classes)
        return len(train) * flops.count(net, channels, size).training

    def rater(self, seed: int) -> RaterFolder:
        """The rater of a seed, trained if it is not there."""
        request = self.request("rater", seed)
        folder = RaterFolder(request.out)
        if not folder.exists:
            make_rater(request.config, folder, parts(request.config))
        return folder


def settings(config: DictConfig) -> list[Setting]:
    """Those that the command line names, or all for which there is data.

    Raises:
        UsageError: a name that is none, or images without a folder of them.
    """
    known = config.study_settings
    possible = [name for name in known if config.root or known[name].of != "images"]
    names = possible if config.settings == "all" else names_in(config.settings)
    if unknown := [name for name in names if name not in possible]:
        raise UsageError(
            f"settings must be all or some of {', '.join(known)}, and those of images need root=<folder>, received "
            f"{', '.join(unknown)}"
        )
    return [
        Setting(name, (*map(str, config[known[name].of]), *known[name].overrides), Path(config.study) / name)
        for name in names
    ]


def names_in(value: object) -> list[str]:
    """One name, or several."""
    return [str(name) for name in value] if isinstance(value, ListConfig) else [str(value)]


_parts: dict[str, tuple[Images, Images]] = {}


def parts(config: DictConfig) -> tuple[Images, Images]:
    """The clean training and test set, read once in a process."""
    source: Source = build(config, "data")
    key = f"{type(source).__name__} {getattr(source, 'root', '')} {getattr(source, 'size', '')}"
    if key not in _parts:
        _parts[key] = source.read()
    return _parts[key]
