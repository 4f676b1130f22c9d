"""A budget is spent to the end, the learning rate with it, whatever a method spends it on."""

from typing import Any

import pytest
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer

from experiments.budgets import longest, make_budget
from experiments.calibration import Calibration
from experiments.callbacks import Cost, Meter, Tally
from experiments.classifier import Classifier
from experiments.data import ImageData
from experiments.errors import UsageError
from experiments.flops import Flops
from experiments.lightning_manners import quiet
from experiments.models import Mlp
from litselect.callbacks import Budget, BudgetSchedule
from litselect.schedules import Linear
from litselect.scoring import ScoringPass
from tests.experiments.sources import digits

PARTS = digits().read()
ROWS = len(PARTS[0])


OPERATIONS = Flops(forward=10, training=30)
CALIBRATION = Calibration(
    {
        "train": {8: 0.010, 32: 0.022},
        "load": {32: 0.001},
        "select": {32: 0.0005},
        "score ScoringPass('eval')": {32: 0.008},
    }
)
EPOCH = sum(0.022 + 0.001 for _ in range(ROWS // 32)) + CALIBRATION.uniform(ROWS % 32, 32)


class Rates(Callback):
    """Records the learning rate of every optimizer step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.values.append(optimizer.param_groups[0]["lr"])


def train(
    unit: str, selection: Callback | None, epochs: int = 2, before: int = 0, beside: int = 0, **limits: Any
) -> tuple[Meter, Budget, Rates, Trainer]:
    from torch.optim import SGD

    source = digits(
        batch_size=32,
        drop_last=limits.pop("drop_last", False),
        candidates=limits.pop("candidates", None),
        heldout_fraction=beside / ROWS,
        heldout_trained=beside > 0,
    )
    data = ImageData(source, seed=0, parts=PARTS)
    net = Mlp(channels=1, size=8, classes=10, width=16, depth=1, dropout=0.0)
    module = Classifier(net, lambda parameters: SGD(parameters, lr=0.5), channels_last=False)
    meter, rates = Meter(selection, Cost(Tally(trained=before // 30), flops=before), OPERATIONS.of), Rates()
    config = OmegaConf.create(
        {
            "unit": unit,
            "free": limits.pop("free", False),
            "data": {
                "batch_size": 32,
                "candidates": source.candidates,
                "drop_last": source.drop_last,
                "only_clean": False,
            },
            "trainer": {"max_epochs": epochs, **limits},
        }
    )
    budget = make_budget(config, data, meter, OPERATIONS, CALIBRATION)
    rate = BudgetSchedule(Linear())
    trainer = Trainer(
        max_epochs=longest(config),
        accelerator="cpu",
        callbacks=[*filter(None, [selection]), meter, budget, rate, rates],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **limits,
    )
    with quiet():
        trainer.fit(module, data)
    return meter, budget, rates, trainer


def preset(**settings: Any) -> Callback:
    from litselect.callbacks import SelectiveBackprop

    return SelectiveBackprop(keep=0.25, **settings)


def half() -> Callback:
    from litselect.callbacks import ExampleSelection
    from litselect.selectors import RandomSubset

    return ExampleSelection(RandomSubset(keep=0.5))


def test_candidates_are_equal_though_epochs_leave_out_more() -> None:
    """Of larger batches an incomplete last one is more: it takes more epochs, or the learning rate never decays."""
    _, plain, _, _ = train("candidates", None, drop_last=True)
    meter, budget, rates, _ = train("candidates", half(), drop_last=True, candidates=512)
    assert budget.progress == 1
    assert plain.spent <= meter.tally.seen < plain.spent + 512
    assert rates.values[-1] < 0.2 * rates.values[0]


@pytest.mark.parametrize("unit", ["candidates", "trained"])
def test_free_scores_have_no_meaning_where_rows_count(unit: str) -> None:
    with pytest.raises(UsageError, match="free=true spares what scores and selection cost"):
        train(unit, half(), free=True)


def test_plain_training_is_counted_without_a_callback() -> None:
    meter, budget, rates, trainer = train("candidates", None)
    tally = meter.tally
    assert (tally.seen, tally.scored, tally.trained) == (2 * ROWS, 0, 2 * ROWS)
    assert tally.steps == trainer.global_step == len(rates.values) == 80
    assert budget.progress == 1
    assert 0 < meter.cpu_seconds <= 2 * meter.seconds


def test_evaluation_stops_the_clock() -> None:
    meter = Meter(None)
    unused: Any = None
    meter.on_train_start(unused, unused)
    meter.on_validation_start(unused, unused)
    stopped = meter.seconds
    assert meter.seconds == stopped
    meter.on_validation_end(unused, unused)
    assert meter.seconds > stopped
    meter.on_train_end(unused, unused)
    assert meter.seconds == meter.seconds


@pytest.mark.parametrize("selection", [None, half, lambda: preset(refill=True, warmup=0)])
@pytest.mark.parametrize("unit", ["candidates", "trained"])
def test_the_rate_decays_to_zero_in_the_budget(unit: str, selection: Any) -> None:
    meter, budget, rates, _ = train(unit, selection() if selection else None)
    assert budget.progress == 1
    assert rates.values == sorted(rates.values, reverse=True)
    assert rates.values[0] > 0.45
    one_batch_before_the_end = 32 / (2 * ROWS)
    # with refill, candidates of several batches wait for a step, so the last step may lie some batches back
    assert rates.values[-1] <= 0.5 * 10 * one_batch_before_the_end
    tally = meter.tally
    assert (tally.seen if unit == "candidates" else tally.trained) == pytest.approx(2 * ROWS, abs=32)


def test_refill_makes_fewer_steps_and_a_step_schedule_would_not_have_decayed() -> None:
    meter, _, rates, trainer = train("candidates", preset(refill=True, warmup=0))
    assert trainer.global_step == len(rates.values) < 0.4 * 80
    assert meter.tally.seen == 2 * ROWS


def test_equal_examples_trained_takes_more_epochs() -> None:
    meter, _, _, trainer = train("trained", half())
    assert meter.tally.trained == pytest.approx(2 * ROWS, abs=16)
    assert meter.tally.seen == pytest.approx(4 * ROWS, rel=0.02)
    assert trainer.current_epoch in (4, 5)


def test_schedules_of_a_selector_run_through_a_budget_of_trained_rows() -> None:
    from litselect.callbacks import ExampleSelection
    from litselect.selectors import RandomSubset, Scheduled

    selection = ExampleSelection(Scheduled(RandomSubset(keep=0.5), keep=(1.0, 0.25)))
    meter, _, _, trainer = train("trained", selection, epochs=4)
    assert meter.tally.trained == pytest.approx(4 * ROWS, abs=32)
    assert selection.selector.keep == pytest.approx(0.25, abs=0.05)
    assert trainer.current_epoch == pytest.approx(4 / 0.625, abs=1)  # the mean of the schedule


@pytest.mark.parametrize(
    ("limits", "rows"),
    [({"limit_train_batches": 5}, 160), ({"drop_last": True}, 1248), ({"limit_train_batches": 0.5}, 640)],
)
def test_the_amount_counts_rows_that_come(limits: dict[str, Any], rows: int) -> None:
    meter, budget, _, _ = train("candidates", None, **limits)
    assert meter.tally.seen == 2 * rows
    assert budget.progress == 1


@pytest.mark.parametrize("selection", [None, half, lambda: preset(refill=True, warmup=0), preset])
def test_equal_flops_charge_scoring(selection: Any) -> None:
    meter, budget, rates, _ = train("flops", selection() if selection else None)
    tally = meter.tally
    assert budget.progress == 1
    assert 10 * tally.scored + 30 * tally.trained == pytest.approx(30 * 2 * ROWS, abs=40 * 32)
    assert rates.values[-1] <= 0.05  # it has decayed, however many rows were seen


def test_what_was_spent_before_leaves_less() -> None:
    meter, budget, _, _ = train("flops", None, before=30 * ROWS)
    assert meter.tally.trained == pytest.approx(ROWS, abs=32)
    assert budget.progress == 1
    with pytest.raises(UsageError, match=r"raise it, or share .* \(selection.runs\)"):
        train("flops", None, before=60 * ROWS)


def test_rows_beside_are_data_but_no_training() -> None:
    meter, _, _, _ = train("flops", None, beside=ROWS // 2)
    assert meter.tally.trained == pytest.approx(2 * (ROWS - ROWS // 2), abs=32)


def test_a_rater_beside_the_training_is_charged() -> None:
    from litselect.callbacks import DataRater

    meter, budget, _, _ = train("flops", DataRater(heldout=0.1, keep=0.5))
    ahead = meter.looking_ahead
    assert ahead.trained > 0
    assert budget.progress == 1
    spent = 10 * (meter.tally.scored + ahead.scored) + 30 * (meter.tally.trained + ahead.trained)
    assert meter.flops == spent == pytest.approx(30 * 2 * ROWS, abs=30 * 5 * 32)


def test_unknown_unit() -> None:
    with pytest.raises(UsageError, match="one of candidates, trained, flops, reference, received hours"):
        train("hours", None)


@pytest.mark.parametrize("selection", [None, half, lambda: preset(scoring=ScoringPass())])
def test_equal_reference_time_charges_what_was_calibrated(selection: Any) -> None:
    meter, budget, rates, _ = train("reference", selection() if selection else None)
    assert budget.spent == pytest.approx(2 * EPOCH, abs=0.04)
    assert sum(budget.breakdown.values()) == pytest.approx(budget.spent)
    assert ("score" in budget.breakdown) == (meter.tally.scored > 0)
    assert rates.values[-1] <= 0.05


def test_free_scores_leave_more_to_train() -> None:
    charged, _, _, _ = train("reference", preset(scoring=ScoringPass()))
    free, budget, _, _ = train("reference", preset(scoring=ScoringPass()), free=True)
    assert free.tally.scored > charged.tally.scored
    assert free.tally.trained > 1.1 * charged.tally.trained
    assert budget.breakdown.keys() == {"before", "load", "train"}


@pytest.mark.parametrize("unit", ["flops", "reference"])
def test_what_is_made_before_is_free_as_well(unit: str) -> None:
    meter, budget, _, _ = train(unit, None, before=60 * ROWS, free=True)
    assert meter.tally.trained == pytest.approx(2 * ROWS, abs=32)
    assert budget.breakdown["before"] == 0
