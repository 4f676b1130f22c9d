"""What is compared with what: arms, budgets and seeds, as the user gives them."""

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig

from experiments.budgets import UNITS
from experiments.cell import Cell
from experiments.errors import UsageError
from experiments.overrides import key_of

ALL = "all"
BASELINE = "uniform"
CONTROL = "random_subset"  # trains as many rows as a selecting arm, chosen by chance
FIXED = ("selection", "seed", "unit", "out", "trainer.max_epochs")  # set by the cell
SIZES = (
    "data",
    "data.batch_size",
    "data.train_examples",
    "data.drop_last",
    "data.val_fraction",
    "data.heldout_fraction",
    "data.imbalance",
    "trainer.limit_train_batches",
)
"""What an epoch of plain training is, which budgets are multiples of: the same for all arms."""
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
    further = set(_numbers("uniform_budget", config.uniform_budget, least=1)) if config.uniform_budget else set[int]()
    return [
        Cell(arm, unit, epochs, seed, label)
        for seed in seeds
        for epochs in sorted({*budgets, *further})
        for unit in units
        for arm, label in arms.items()
        if epochs in budgets or arm == BASELINE
    ]


def chosen_arms(config: DictConfig) -> dict[str, str]:
    """The arms that `selections` names, and what reports call them.

    Raises:
        UsageError: one that does not exist.
    """
    options = every_arm()
    return {arm: arm for arm in options} if config.selections == ALL else _arms(config.selections, options)


def every_arm() -> list[str]:
    """The options of the config group `selection`, the baseline first."""
    options = sorted(GlobalHydra.instance().config_loader().get_group_options("selection"))
    return sorted(options, key=lambda option: option != BASELINE)


def to_run(cell: Cell) -> Cell:
    """The cell whose run serves `cell`: where everything is trained, both units of rows ask for the same run."""
    same = cell.arm in TRAIN_EVERYTHING and cell.unit in ("candidates", "trained")
    return Cell(cell.arm, UNITS[0], cell.epochs, cell.seed) if same else cell


def option_of(arm: str) -> str:
    """The option of the group `selection` that an arm is about; what follows it are settings of this arm alone."""
    return arm.split()[0]


def _arms(received: object, options: list[str]) -> dict[str, str]:
    """Arms as the user gives them, and their names.

    An option; or an option and overrides, such as `"top_loss keep=0.35 free=true"`; or either of them with a name of
    its own, `{ceiling: "top_loss keep=0.35 free=true"}`.
    """
    given = list(received) if isinstance(received, ListConfig) else [received]
    pairs = [pair for one in given for pair in (one.items() if isinstance(one, DictConfig) else [(one, one)])]
    named = [(" ".join(str(arm).split()), " ".join(str(label).split())) for label, arm in pairs if str(arm).split()]
    arms = dict(named)
    if twice := next((arm for arm, label in named if arms[arm] != label), None):
        raise UsageError(
            f"an arm has one name, received several for {twice}; leave one out, or give it settings of its own: "
            "selections=[uniform,{half: 'top_loss keep=0.5'}]"
        )
    _names("selections", ListConfig([option_of(arm) for arm in arms]), options, f"{ALL}, ")
    if len(set(arms.values())) < len(arms) or arms.get(BASELINE, BASELINE) != BASELINE:
        raise UsageError(
            f"arms need names of their own, and {BASELINE} keeps its name, received {', '.join(arms.values())}; rename "
            "one: selections=[uniform,{half: 'top_loss keep=0.5'}]"
        )
    for arm in arms:
        for override in arm.split()[1:]:
            if "=" not in override or key_of(override) in (*FIXED, *SIZES):
                raise UsageError(
                    f"an arm is an option of selections and settings of its own such as keep=0.35, which may not be "
                    f"{', '.join((*FIXED, *SIZES))}, received {arm}; set others: selections=['top_loss keep=.35']"
                )
    return arms


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
