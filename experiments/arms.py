"""What is compared with what: arms, budgets and seeds, as the user gives them."""

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig

from experiments.callbacks.budget import UNITS
from experiments.cell import Cell
from experiments.errors import UsageError

ALL = "all"
BASELINE = "uniform"
CONTROL = "random_subset"  # trains as many rows as a selecting arm, chosen by chance
TRAIN_EVERYTHING = (BASELINE, "keep_all")  # for these, a candidate seen is an example trained


def plan(config: DictConfig) -> list[Cell]:
    """Every cell of a comparison, all arms of a seed before the next seed.

    Neighbours in time then differ in their arm, so a machine that slows down for a while slows all arms; and after an
    interruption what is done can be compared.

    Raises:
        UsageError: an arm, unit, budget or number of seeds that does not exist.
    """
    arms = chosen_arms(config)
    units = _names("units", config.units, list(UNITS))
    budgets, seeds = _numbers("budget", config.budget, least=1), _seeds(config.seeds)
    return [Cell(arm, unit, epochs, seed) for seed in seeds for epochs in budgets for unit in units for arm in arms]


def chosen_arms(config: DictConfig) -> list[str]:
    """The arms that `selections` names.

    Raises:
        UsageError: one that does not exist.
    """
    options = every_arm()
    return options if config.selections == ALL else _names("selections", config.selections, options, f"{ALL}, ")


def every_arm() -> list[str]:
    """The options of the config group `selection`, the baseline first."""
    options = sorted(GlobalHydra.instance().config_loader().get_group_options("selection"))
    return sorted(options, key=lambda option: option != BASELINE)


def to_run(cell: Cell) -> Cell:
    """The cell whose run serves `cell`: where everything is trained, both units ask for the same run."""
    return Cell(cell.arm, UNITS[0], cell.epochs, cell.seed) if cell.arm in TRAIN_EVERYTHING else cell


def _names(key: str, received: object, known: list[str], also: str = "") -> list[str]:
    names = list(received) if isinstance(received, ListConfig) else [received]
    unknown = [str(name) for name in names if name not in known]
    if unknown or not names:
        raise UsageError(
            f"{key} must be {also}one or more of {', '.join(known)}, received {', '.join(unknown) or 'none'}; "
            f"set {key}=[{','.join(known[:2])}], say"
        )
    return list(dict.fromkeys(map(str, names)))


def _numbers(key: str, received: object, least: int) -> list[int]:
    numbers = list(received) if isinstance(received, ListConfig) else [received]
    valid = [number for number in numbers if type(number) is int and number >= least]
    if not numbers or len(valid) < len(numbers):
        raise UsageError(
            f"{key} must be an integer of at least {least}, or a list of them, received {received}; set {key}=3, say"
        )
    return list(dict.fromkeys(valid))


def _seeds(received: object) -> list[int]:
    if isinstance(received, ListConfig):
        return _numbers("seeds", received, least=0)
    return list(range(_numbers("seeds", received, least=1)[0]))
