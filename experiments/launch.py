"""Hydra's launchers and sweepers, for jobs that an application plans itself."""

import functools
from pathlib import Path

from hydra import compose
from hydra._internal.callbacks import Callbacks  # a launcher asks for them, and Hydra shows nobody those it runs with
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.data import Images, Source


def chosen(plugin: str) -> str:
    """The option of the group `hydra/<plugin>` (launcher, sweeper) that the command line asks for."""
    return HydraConfig.get().runtime.choices[f"hydra/{plugin}"]


def launcher(job: TaskFunction, folder: Path) -> Launcher:
    """The launcher that the command line asks for, of jobs with the config `conf/train.yaml`.

    Args:
        job: called with the config of each; other processes receive it pickled.
        folder: in which every job has one of its own, `hydra.sweep.subdir`.
    """
    return Plugins.instance().instantiate_launcher(_context(), job, _config(folder))


def sweeper(job: TaskFunction, folder: Path, *settings: str) -> Sweeper:
    """The same for the sweeper, which has its jobs launched by that launcher.

    Args:
        job: called with the config of each; other processes receive it pickled.
        folder: in which every job has one of its own, named by its number.
        settings: further overrides of keys below `hydra`.
    """
    return Plugins.instance().instantiate_sweeper(
        hydra_context=_context(), task_function=job, config=_config(folder, *settings)
    )


@functools.lru_cache(maxsize=1)
def read(source: Source) -> tuple[Images, Images]:
    """The clean training and test set, read once in a process that runs several jobs."""
    return source.read()


def _context() -> HydraContext:
    return HydraContext(GlobalHydra.instance().config_loader(), Callbacks())


def _config(folder: Path, *settings: str) -> DictConfig:
    """What jobs have in common: everything below `hydra` that this application was told, and where they run."""
    quoted = str(folder.absolute()).replace("'", "\\'")
    where = (f"hydra.sweep.dir='{quoted}'", "hydra.output_subdir=null")
    return compose("train", [*HydraConfig.get().overrides.hydra, *settings, *where], return_hydra_config=True)
