"""One training run, from a config to its summary."""

from typing import Any

from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ProgressBar

from experiments import flops
from experiments.batches import require_batches
from experiments.budgets import calibrated, longest, make_budget
from experiments.build import build
from experiments.callbacks import Cost, LearningCurve, Meter, TrainedRows
from experiments.classifier import Classifier
from experiments.data import ImageData, Images, Source
from experiments.evaluation import evaluated_part
from experiments.files import write_json
from experiments.irreducible import make_table, table_of
from experiments.lightning_manners import quiet, real_interrupts
from experiments.proxy import ProxyScored
from experiments.rating import Online, Rated
from experiments.report import write_ledger
from experiments.request import Request
from experiments.summary import circumstances, costs, spent
from experiments.threads import threads
from litselect.callbacks import BudgetSchedule, ExampleSelection


def run(
    request: Request,
    parts: tuple[Images, Images] | None = None,
    watchers: tuple[Callback, ...] = (),
    show_ledger: bool = False,
) -> dict[str, Any]:
    """Trains, evaluates once after the last epoch, and writes `summary.json` and `curve.csv`.

    Args:
        request: what to run.
        parts: the clean training and test set, where they are at hand already.
        watchers: further callbacks, such as a progress display.
        show_ledger: write what the selection remembers of the examples too, if it does, as tables and pictures.

    Returns:
        The summary.

    Raises:
        UsageError: bad input, before any training step.
        KeyboardInterrupt: after Ctrl-C; nothing but the curve so far is written then.
    """
    config = request.config
    source: Source = build(config, "data")
    parts = parts or source.read()
    seed_everything(config.seed, workers=True, verbose=False)
    data = ImageData(source, config.seed, parts)
    require_batches(data, config.trainer)
    part = evaluated_part(config, data)
    _, channels, _, size = data.train.pixels.shape
    net = build(config, "model", channels=channels, size=size, classes=data.train.classes)
    operations = flops.count(net, channels, size)
    build(config, "optimizer", params=net.parameters())  # refuses bad settings here, before there is a Trainer
    module = Classifier(net, build(config, "optimizer"), config.channels_last)
    selection, before = _selection(request, data, parts, watchers)
    if isinstance(selection, ExampleSelection):
        operations = operations.with_scores(selection.scoring, channels, size)
    meter = Meter(selection, before, operations.of)
    calibration = calibrated(config, data, [*filter(None, [selection])], request.calibration)
    budget = make_budget(config, data, meter, operations, calibration)
    curve = LearningCurve(request.curve, meter, budget)
    rate = BudgetSchedule(build(config, "schedule"))
    # the selection stands first, so that its counters are up to date when the others look
    callbacks = [*filter(None, [selection]), meter, budget, rate, curve, TrainedRows(request.out, meter), *watchers]
    with quiet(), real_interrupts(), threads(config.threads, source.batch_size * operations.training):
        trainer: Trainer = build(
            config,
            "trainer",
            callbacks=callbacks,
            max_epochs=longest(config),
            logger=build(config, "logger") or False,
            enable_progress_bar=any(isinstance(watcher, ProgressBar) for watcher in watchers),
        )
        trainer.fit(module, datamodule=data)
        evaluate = trainer.test if part == "test" else trainer.validate
        (found,) = evaluate(module, datamodule=data, verbose=False)
    ledger = getattr(selection, "ledger", None)
    if show_ledger and ledger is not None:
        write_ledger(ledger, data, request.out)
    summary = {
        **{group: request.choices[group] for group in ("data", "model", "selection")},
        "seed": config.seed,
        f"{part}_accuracy": found[f"{part}/accuracy"],
        f"{part}_loss": found[f"{part}/loss"],
        **module.tested,
        **costs(meter, operations),
        **spent(budget, config, calibration),
        **circumstances(request, data, module),
    }
    write_json(request.summary, summary)
    return summary


def _selection(
    request: Request, data: ImageData, parts: tuple[Images, Images], watchers: tuple[Callback, ...]
) -> tuple[Callback | None, Cost]:
    """The selection callback, and what it cost to make what it needs: ratings or irreducible losses.

    Both are made here if they were not given.
    """
    selection: Any = build(request.config, "selection")
    if isinstance(selection, Rated | Online | ProxyScored):
        return selection.ready(request.config, data, parts, request.shared_rater or request.out / "rater")
    table = table_of(selection)
    if table is None:
        return selection, Cost()
    if table.path is None:
        path = request.shared_table or request.out / "irreducible.safetensors"
        if request.shared_table is None or not path.exists():
            make_table(request.config, path, parts, watchers=watchers)
        table.path = str(path)
    return selection, table.cost(data.fingerprint())
