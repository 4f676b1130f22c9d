"""Measures the pieces of a training, in turns."""

import math
from collections.abc import Callable
from statistics import median

from omegaconf import DictConfig
from sklearn.isotonic import isotonic_regression

from experiments import environment
from experiments.calibration.calibration import Calibration, Points, scoring_pieces
from experiments.calibration.workbench import Workbench
from experiments.data import ImageData
from litselect.scoring import ScoringPass

ROUNDS = 25
SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)  # of a batch, at which pieces are measured


def calibrate(calibration: Calibration, config: DictConfig, data: ImageData, scorings: list[ScoringPass]) -> bool:
    """Adds what is missing to a calibration; answers whether anything was.

    All pieces have their turn in each round, so that a machine that slows down for a while slows all. What is kept is
    the median over rounds of the ratio to a whole training step, times that step's seconds, which are measured once:
    pieces that are added later fit in, even if the machine has changed its pace.

    Args:
        calibration: what is known, changed in place.
        config: of a run with the network, precision and threads in question.
        data: of that run.
        scorings: the scoring passes that are to be priced.
    """
    batches = (data.source.batch_size, data.source.most_rows)
    sizes = sorted({max(1, round(share * rows)) for share in SHARES for rows in batches})
    scored = {piece: (kind, scoring) for scoring in scorings for kind, piece in scoring_pieces(scoring).items()}
    known = calibration.pieces
    names = ("train", "load", "select", *scored)
    missing = [(name, size) for name in names for size in sizes if size not in known.get(name, {})]
    if not missing:
        return False
    bench = Workbench(config, data)
    wanted: dict[str, Callable[[int], Callable[[], object]]] = {
        "train": bench.train, "load": bench.load, "select": bench.select,
    }  # fmt: skip
    for piece, (kind, scoring) in scored.items():
        wanted[piece] = bench.score(scoring) if kind == "score" else bench.proxy(scoring)
    calls = {(name, size): wanted[name](size) for name, size in missing}
    with bench.ready():
        step, ratios = _in_turns(bench.train(data.source.batch_size), calls, bench.clock())
    if not known:
        calibration.machine, calibration.settings = environment.describe(), bench.settings
    whole = known.get("train", {}).get(data.source.batch_size, step)
    added: dict[str, Points] = {}
    for (name, size), ratio in ratios.items():
        added.setdefault(name, {})[size] = ratio * whole
    for name, points in added.items():
        known[name] = _fitted_in(points, known.get(name, {}))
    return True


def _fitted_in(added: Points, known: Points) -> Points:
    """All points, of which more rows never cost less. What is known stays: runs have ended at those prices."""
    rows, costs = zip(*sorted(added.items()), strict=True)
    points = dict(known)
    for size, cost in zip(rows, isotonic_regression(costs), strict=True):
        least = max((price for other, price in known.items() if other < size), default=0.0)
        most = min((price for other, price in known.items() if other > size), default=math.inf)
        points[size] = min(max(float(cost), least), most)
    return dict(sorted(points.items()))


def _in_turns(
    step: Callable[[], object], calls: dict[tuple[str, int], Callable[[], object]], clock: Callable[[], float]
) -> tuple[float, dict[tuple[str, int], float]]:
    """Seconds of `step`, and of each call as a multiple of it: medians over rounds, the first left out."""
    steps: list[float] = []
    ratios: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    for number in range(ROUNDS + 1):
        before = _seconds(step, clock)
        taken = {key: _seconds(call, clock) for key, call in calls.items()}
        whole = (before + _seconds(step, clock)) / 2
        if number:  # the first warms up
            steps.append(whole)
            for key, seconds in taken.items():
                ratios[key].append(seconds / whole)
    return median(steps), {key: median(values) for key, values in ratios.items()}


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start
