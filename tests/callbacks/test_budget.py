"""A budget is spent to the end in its unit, the learning rate with it, and nothing else of the Trainer changes."""

import json
import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from litselect.callbacks import Budget, BudgetSchedule, ExampleSelection, Price, Prices, SelectiveBackprop
from litselect.callbacks.work import Work
from litselect.schedules import Cosine
from litselect.scoring import ScoringPass
from litselect.selectors import RandomSubset, TopLoss
from tests.callbacks import ranks
from tests.callbacks.kit import Changing, Classifier, Kit, Validated, loader, loader_of

ROWS, BATCH = 40, 8
PRICES: Any = {"load": [[8, 0.08]], "train": [[4, 3.0], [8, 4.0]], "score": [[8, 1.0]], "select": [[8, 0.5]]}


class Rates:
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.values.append(optimizer.param_groups[0]["lr"])


def data() -> DataLoader[Any]:
    return loader(ROWS, batch_size=BATCH)


def fit(kit: Kit, budget: Budget, *callbacks: Any, module: Any = None, **settings: Any) -> tuple[Any, Any]:
    module = module or kit.make(Classifier)
    trainer = kit.fit(module, *callbacks, budget, data=data(), **{"max_epochs": -1, **settings})
    return module, trainer


def halves(**settings: Any) -> ExampleSelection:
    return ExampleSelection(RandomSubset(keep=0.5), **settings)


def scored() -> ExampleSelection:
    return ExampleSelection(TopLoss(keep=0.5), scoring=ScoringPass(check=False))


# ---------------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("amount", "selection", "batches", "spent"),
    [
        ({"candidates": 100}, None, 13, 104),
        ({"candidates": 100}, halves, 13, 104),
        ({"trained": 100}, None, 13, 104),
        ({"trained": 100}, halves, 25, 100),
        ({"reference_seconds": 30.0, "prices": PRICES}, None, 8, 8 * 4.08),
        ({"reference_seconds": 30.0, "prices": PRICES}, halves, 9, 9 * (3 + 0.08 + 0.5)),
        ({"reference_seconds": 30.0, "prices": PRICES}, scored, 7, 7 * (3 + 0.08 + 0.5 + 1)),
        ({"reference_seconds": 30.0, "prices": PRICES, "before": 9.0}, None, 6, 9 + 6 * 4.08),
        ({"flops": 8 * 60 * 7}, None, 7, 8 * 60 * 7),  # a weight of 5 x 3, twice: the inputs need no gradient
        ({"flops": 8 * 60 * 7}, halves, 14, 8 * 60 * 7),
        ({"flops": 8 * 60 * 7}, scored, 7, 7 * (4 * 60 + 8 * 30)),
        ({"flops": 900.0, "prices": {"train": [[1, 10]]}}, None, 12, 960),
    ],
)
def test_training_ends_with_the_batch_that_spends_the_rest(
    kit: Kit, amount: dict[str, Any], selection: Any, batches: int, spent: float
) -> None:
    budget = Budget(**amount)
    _, trainer = fit(kit, budget, *([selection()] if selection else []))
    assert trainer.global_step == batches
    assert budget.spent == pytest.approx(spent)
    assert budget.progress == 1
    assert sum(budget.breakdown.values()) == pytest.approx(spent) or "before" in budget.breakdown
    assert trainer.max_epochs == -1  # the user's own


def test_a_budget_that_is_spent_says_so(solo: Kit, caplog: pytest.LogCaptureFixture) -> None:
    for amount, said in ((64, ["The budget of 64 candidates is spent."]), (10_000, [])):
        caplog.clear()
        with caplog.at_level(logging.INFO, "pytorch_lightning"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one that is not
            solo.fit(solo.make(Classifier), Budget(candidates=amount), data=loader(32, 8), max_epochs=9)
        assert [r.getMessage() for r in caplog.records if "budget" in r.getMessage()] == said


def test_seconds_pass_in_training_alone(solo: Kit) -> None:
    class Slow(Validated):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            time.sleep(0.02)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            time.sleep(0.2)
            super().validation_step(batch, batch_idx)

    budget, module = Budget(seconds=0.6), solo.make(Slow)
    trainer = solo.trainer(budget, max_epochs=-1, num_sanity_val_steps=0)
    trainer.fit(module, data(), loader(8, batch_size=8))
    assert budget.spent >= 0.6
    assert 6 <= len(module.steps) <= 30  # some epochs of 0.1 s, after each of which 0.2 s were not charged
    assert trainer.current_epoch >= 1


def test_refill_is_charged_for_what_it_trains(solo: Kit) -> None:
    budget = Budget(trained=64)
    module, _ = fit(solo, budget, halves(refill=True))
    assert [len(rows) for rows in module.steps] == [BATCH] * 8
    assert budget.spent == 64


def test_rows_that_are_not_loaded_are_not_charged(solo: Kit) -> None:
    budget = Budget(reference_seconds=2.0, prices={"load": [[1, 0.01]]})
    preset = SelectiveBackprop(keep=0.5, scoring="ledger", floor=0.1)
    module, _ = fit(solo, budget, preset)
    whole = ROWS * 0.01
    assert budget.spent == pytest.approx(2.0, abs=0.08)
    assert len(module.steps) == pytest.approx(5 + (2.0 - whole) / 0.04, abs=1)


def test_a_rater_beside_the_training_is_charged() -> None:
    prices = Prices.of({"train": [[8, 4.0]], "score": [[8, 1.0]]})
    assert prices.of_work(Work(train=8, rater_trained=16, rater_scored=24)) == {"train": 4, "rate": 11}


def test_a_proxy_that_learns_is_charged(solo: Kit) -> None:
    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(5, 3)

        def training_step(self, batch: Any) -> Any:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    proxy = Small()
    scoring = ScoringPass(proxy=proxy, proxy_optimizer=torch.optim.SGD(proxy.parameters(), lr=0.1), check=False)
    budget = Budget(reference_seconds=10.0, prices={"proxy": [[4, 1.0]]})
    fit(solo, budget, ExampleSelection(TopLoss(keep=0.5), scoring=scoring))
    assert budget.breakdown["proxy"] == 10


# ---------------------------------------------------------------------- prices


def test_a_price_is_read_off_straight_lines() -> None:
    price = Price(((8, 2.0), (4, 1.0), (16, 3.0)))
    assert [price.of(rows) for rows in (0, 4, 6, 8, 12, 16, 24)] == pytest.approx([0, 1, 1.5, 2, 2.5, 3, 4])
    assert price.of(2) == pytest.approx(0.5)
    assert Price(((10, 5.0),)).of(3) == pytest.approx(1.5)
    assert Price(((4, 0.1), (8, 2.0))).of(1) == pytest.approx(0.025)  # never nothing, or less
    assert Price(((4, 2.0), (8, 0.1))).of(99) == 0


@pytest.mark.parametrize(
    "points", [(), ((0, 1.0),), ((4, 1.0), (4, 2.0)), ((4, -1.0),), ((4, math.inf),), 0.04, (128, 0.05)]
)
def test_prices_that_are_none(points: Any) -> None:
    with pytest.raises(ValueError, match="pairs of rows"):
        Price(points)


def test_prices_come_from_a_file(tmp_path: Path) -> None:
    Prices.of(PRICES).save(tmp_path / "prices.json")
    assert Prices.of(tmp_path / "prices.json") == Prices.of(PRICES)
    (tmp_path / "list.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="Expected prices such as"):
        Prices.of(tmp_path / "list.json")
    with pytest.raises(ValueError, match=r"Expected prices of load, .* got decode"):
        Prices.of({"decode": [[1, 1.0]]})
    with pytest.raises(ValueError, match="nothing would be spent"):
        Prices.of({"train": [[1, 0.0]]})


# ---------------------------------------------------------------------- the learning rate


@pytest.mark.parametrize("amount", [{"candidates": 200}, {"trained": 200}, {"flops": 60 * 200}])
@pytest.mark.parametrize("selection", [None, halves, lambda: halves(refill=True)])
def test_the_rate_decays_within_the_budget(solo: Kit, amount: dict[str, Any], selection: Any) -> None:
    rates = solo.callback(Rates)
    fit(solo, Budget(**amount), *([selection()] if selection else []), BudgetSchedule(), rates)
    assert 0.09 < rates.values[0] <= 0.1  # with refill the first step comes some batches later
    assert rates.values == sorted(rates.values, reverse=True)
    assert 0 < rates.values[-1] <= 0.1 * 2.1 * BATCH / 200


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ("linear", 0.5),
        ("cosine", 0.5),
        ("constant", 1.0),
        ("step", 0.2),
        ("one_cycle", None),
        (Cosine(warmup=0.5), 1.0),
        (lambda share: 1 - share**2, 0.75),
    ],
)
def test_shapes(solo: Kit, shape: Any, factor: float | None) -> None:
    rates = solo.callback(Rates)
    fit(solo, Budget(candidates=80), BudgetSchedule(shape), rates)
    assert len(rates.values) == 10
    if factor is not None:
        assert rates.values[5] == pytest.approx(0.1 * factor)
    else:
        assert rates.values[0] == pytest.approx(0.004)
        assert max(rates.values) == pytest.approx(0.1)


def test_a_schedule_refuses_what_it_can_not_follow(solo: Kit) -> None:
    with pytest.raises(ValueError, match="one of constant, linear, cosine, one_cycle, step"):
        BudgetSchedule("exponential")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Trainer has none"):
        solo.fit(solo.make(Classifier), BudgetSchedule(), data=data())

    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    with pytest.raises(ValueError, match="also returns StepLR"):
        fit(solo, Budget(candidates=80), BudgetSchedule(), module=solo.make(Scheduled))


# ---------------------------------------------------------------------- the Trainer


def test_max_epochs_is_what_the_pace_foretells(solo: Kit) -> None:
    class Foretold:
        def __init__(self) -> None:
            super().__init__()
            self.epochs: list[int] = []

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.epochs.append(trainer.max_epochs)

    foretold = solo.callback(Foretold)
    module = solo.make(Classifier)
    trainer = solo.fit(module, halves(), Budget(trained=100), foretold, data=data(), max_epochs=-1)
    assert foretold.epochs == [3] * 5 + [5] * 20  # at the pace of plain training, then once in each epoch
    assert len(module.steps) == 25
    assert trainer.max_epochs == -1


def test_a_stream_of_unknown_length_ends_with_the_budget(solo: Kit) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(data().dataset)  # type: ignore[call-overload]

    for amount, batches in ((24, 3), (100, 13)):
        trainer = solo.trainer(Budget(candidates=amount), max_epochs=-1)
        trainer.fit(solo.make(Classifier), DataLoader(Stream(), batch_size=BATCH))
        assert trainer.global_step == batches


def test_a_selector_that_anneals_follows_the_budget(solo: Kit) -> None:
    from litselect.selectors import Scheduled

    selection = ExampleSelection(Scheduled(RandomSubset(keep=0.5), keep=(1.0, 0.25)))
    fit(solo, Budget(trained=400), selection)
    assert selection.selector.keep == pytest.approx(0.25, abs=0.05)


def test_fractions_of_training_are_allowed_where_a_budget_is_its_length(solo: Kit) -> None:
    module, _ = fit(solo, Budget(candidates=400), halves(start=0.5))
    assert [len(rows) for rows in module.steps[:20]] == [8] * 20
    assert {len(rows) for rows in module.steps[30:]} == {4}
    with pytest.raises(ValueError, match="its length is not known"):
        solo.fit(solo.make(Classifier), halves(start=0.5), data=data(), max_epochs=-1)


def test_the_trainers_own_limit_comes_first_and_is_warned_of(solo: Kit) -> None:
    with pytest.warns(UserWarning, match=r"40% of the budget of 200 candidates .*max_epochs=2"):
        module, _ = fit(solo, Budget(candidates=200), max_epochs=2)
    assert len(module.steps) == 10


def test_what_stops_early_is_not_warned_of(solo: Kit) -> None:
    class Enough:
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = True

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Training ended")
        fit(solo, Budget(candidates=200), solo.callback(Enough))


def test_the_bar_shows_it(kit: Kit) -> None:
    class Bar:
        def __init__(self) -> None:
            super().__init__()
            self.shown: list[float] = []

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.shown.append(trainer.progress_bar_metrics["budget"])

    bar = kit.callback(Bar)
    kit.fit(kit.make(Classifier), Budget(candidates=80), bar, data=data(), max_epochs=-1)
    assert bar.shown == pytest.approx([0.1 * step for step in range(1, 11)])


def test_a_fit_that_goes_on_foretells_from_where_it_began(solo: Kit) -> None:
    module, trainer = solo.make(Classifier), solo.trainer(Budget(candidates=80), max_epochs=-1)
    trainer.fit(module, data())
    foretold: list[int] = []

    class Foretold:
        def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
            foretold.append(trainer.max_epochs)

    trainer.callbacks.append(solo.callback(Foretold))
    trainer.fit(module, data())
    assert trainer.current_epoch == 4
    assert foretold[-1] == 4


def test_a_whole_number_of_epochs_is_one(solo: Kit) -> None:
    """Ten tenths make a little less than one in floating point."""
    _, trainer = fit(solo, Budget(reference_seconds=50 * 0.1, prices={"train": [[8, 0.1]]}))
    assert trainer.global_step == 50


def test_a_loader_may_deliver_nothing(solo: Kit) -> None:
    batches: list[Any] = [*data()]
    batches[2] = None
    budget = Budget(candidates=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solo.fit(solo.make(Classifier), budget, data=loader_of(batches), max_epochs=-1)
    assert budget.spent == 64


def test_a_module_without_operations_has_no_such_budget(solo: Kit) -> None:
    class Bare(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net.bias.sum()

    with pytest.raises(ValueError, match="would never be spent"):
        fit(solo, Budget(flops=100), module=solo.make(Bare))


def test_a_forward_that_serves_twice_is_charged_once(solo: Kit) -> None:
    class Net(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))

    budget = Budget(reference_seconds=20.0, prices={"train": [[1, 0.03]], "score": [[1, 0.01]]})
    selection = ExampleSelection(TopLoss(keep=0.5), reuse_forward=True)
    fit(solo, budget, selection, module=solo.make(Net))
    counters = selection.counters
    assert counters.reused > 0
    served = min(counters.reused, counters.trained)
    rescored = counters.scored - counters.reused  # the first batch, by the check
    expected = 0.03 * counters.trained + 0.01 * (rescored + counters.reused // 2)
    assert served > 0
    assert budget.spent == pytest.approx(expected, abs=0.2)


def test_more_money_goes_on_where_less_had_ended(solo: Kit, tmp_path: Path) -> None:
    def trained(amount: int, path: Path | None = None) -> Any:
        trainer = solo.trainer(Budget(candidates=amount), max_epochs=-1, enable_checkpointing=False)
        trainer.fit(solo.make(Classifier), data(), ckpt_path=path)
        return trainer

    trained(5 * ROWS).save_checkpoint(tmp_path / "end.ckpt")
    assert trained(10 * ROWS, tmp_path / "end.ckpt").global_step == 50


def test_a_second_fit_spends_anew(solo: Kit) -> None:
    budget, module = Budget(flops=8 * 60 * 7), solo.make(Classifier)
    assert [fit(solo, budget, module=module)[1].global_step for _ in range(2)] == [7, 7]


def test_an_error_gives_the_limit_back(solo: Kit) -> None:
    class Fails(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if len(self.steps) == 3:
                raise RuntimeError("no more")
            return super().training_step(batch, batch_idx)

    trainer = solo.trainer(Budget(candidates=800), max_epochs=-1)
    with pytest.raises(RuntimeError, match="no more"):
        trainer.fit(solo.make(Fails), data())
    assert trainer.max_epochs == -1


def test_counting_operations_leaves_no_trace(solo: Kit) -> None:
    class Norm(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop = torch.nn.BatchNorm1d(5), torch.nn.Dropout(0.5)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, ids = batch
            return super().training_step((self.drop(self.norm(x)), y, ids), batch_idx)

    weights = []
    for budget in (Budget(flops=8 * 90 * 10, prices={"train": [[1, 90]]}), Budget(flops=8 * 90 * 10)):
        module = solo.make(Norm)
        torch.manual_seed(3)
        fit(solo, budget, module=module)
        assert len(module.steps) == 10 + (budget.prices is not None and "score" in budget.prices.kinds)
        weights.append({name: value.clone() for name, value in module.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("how", ["pops", "writes"])
@pytest.mark.parametrize("unit", ["flops", "candidates"])
@pytest.mark.parametrize("selects", [False, True])
def test_a_step_that_changes_its_batch(solo: Kit, how: str, unit: str, selects: bool) -> None:
    budget = Budget(**{unit: 8 * 60 * 7 if unit == "flops" else 56})  # type: ignore[arg-type]
    module = solo.make(Changing, how)
    fit(solo, budget, *([ExampleSelection(TopLoss(keep=1.0))] if selects else []), module=module)
    assert budget.progress == 1
    assert max(map(abs, module.means)) < 2


def test_operations_are_counted_of_a_batch_that_all_hooks_have_seen(solo: Kit) -> None:
    class Prepares(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
            self.temperature = 2.0
            if batch_idx == 1:
                batch[0].resize_(0)  # of no use
                return -1  # the rest of the epoch is left out
            return None

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, ids = batch
            return super().training_step((x / self.temperature, y, ids), batch_idx)

    module = solo.make(Prepares)
    budget = Budget(flops=8 * 60 * 3)
    trainer = solo.fit(module, budget, data=data(), max_epochs=-1)
    assert trainer.global_step == 3


def test_operations_are_counted_on_as_many_rows_as_are_trained(solo: Kit) -> None:
    """There may be no memory to train all candidates."""

    class Small(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if torch.is_grad_enabled() and len(batch[0]) > 4:
                raise torch.OutOfMemoryError("full")
            return super().training_step(batch, batch_idx)

    _, trainer = fit(solo, Budget(flops=8 * 60 * 7), halves(), module=solo.make(Small))
    assert trainer.global_step == 14


def test_operations_of_one_row_are_not_counted_where_that_would_crash(solo: Kit) -> None:
    class Norm(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))

    _, trainer = fit(solo, Budget(flops=8 * 60 * 7), ExampleSelection(RandomSubset(keep=0.1)), module=solo.make(Norm))
    assert trainer.global_step == 28  # two rows a step


def test_operations_change_with_what_is_trained(solo: Kit) -> None:
    class Two(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
            self.net[0].requires_grad_(False)

        def on_train_epoch_start(self) -> None:
            self.net.requires_grad_(self.current_epoch > 0)
            self.net[1].requires_grad_(True)

        def on_train_epoch_end(self) -> None:
            spent.append(budget.spent)

    spent: list[float] = []
    budget = Budget(flops=1e6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(solo, budget, module=solo.make(Two), max_epochs=2)
    first, second = 2 * (20 + 12) + 2 * 12, 2 * (20 + 12) + 2 * (12 + 12 + 20)
    assert spent == [ROWS * first, ROWS * (first + second)]


def test_checkpoints_that_autograd_can_not_look_through_are_said_to_be(solo: Kit) -> None:
    class Saves(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, ids = batch
            self.note(ids)
            outputs = checkpoint(self.net, x.requires_grad_(), use_reentrant=True)
            return torch.nn.functional.cross_entropy(outputs, y)

    with pytest.raises(ValueError, match=r"checkpoints activations with use_reentrant=True.*prices="):
        fit(solo, Budget(flops=100), module=solo.make(Saves))


@pytest.mark.filterwarnings("ignore:Training ended with")
def test_time_needs_no_rows(solo: Kit) -> None:
    """Of which nobody knows how many this batch has."""

    class Graph(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch["nodes"]).sum() + batch["edges"].sum()

    batches = [{"nodes": torch.randn(7, 5), "edges": torch.zeros(2, 19)} for _ in range(4)]
    trainer = solo.fit(solo.make(Graph), Budget(seconds=3600), BudgetSchedule(), data=loader_of(batches), max_epochs=1)
    assert trainer.global_step == 4


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_finder_is_no_resumed_training(solo: Kit) -> None:
    class Length:
        def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.max_steps == -1:  # not of the finder's trial
                found.append(trainer.max_epochs)

    found: list[int] = []
    finder = solo.pl.callbacks.LearningRateFinder(num_training_steps=3, update_attr=False)
    trainer = solo.trainer(finder, Budget(candidates=2 * ROWS), solo.callback(Length), max_epochs=-1)
    trainer.fit(solo.make(Classifier), data())
    assert found == [2, 2]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_epoch_that_costs_nothing_foretells_nothing(solo: Kit) -> None:
    class Dear:
        def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 1:
                budget.prices = Prices.of({"train": [[8, 1.0]]})

    budget = Budget(reference_seconds=20.0, prices={"train": [[8, 10.0]]})
    free = solo.callback(Dear)
    began = budget.on_train_start

    def free_at_first(trainer: Any, module: Any) -> None:
        began(trainer, module)
        budget.prices = None

    budget.on_train_start = free_at_first  # type: ignore[method-assign]
    _, trainer = fit(solo, budget, free)
    assert trainer.current_epoch == 5


def test_a_group_that_is_added_later_decays_from_there(solo: Kit) -> None:
    class Unfreezes(Classifier):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 2:
                (optimizer,) = self.trainer.optimizers
                more = torch.nn.Parameter(torch.zeros(1))
                optimizer.add_param_group({"params": [more], "lr": optimizer.param_groups[0]["lr"]})

        def on_train_batch_end(self, *_: Any) -> None:
            rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])

    rates: list[list[float]] = []
    fit(solo, Budget(candidates=4 * ROWS), BudgetSchedule("linear"), module=solo.make(Unfreezes))
    added = [row for row in rates if len(row) == 2]
    assert len(added) == 10
    assert all(row[1] == pytest.approx(row[0]) for row in added)


# ---------------------------------------------------------------------- resume and ranks


def test_a_resumed_run_ends_where_the_whole_one_would(solo: Kit, tmp_path: Path) -> None:
    def trained(path: Path | None = None, **settings: Any) -> tuple[Any, Budget, Any]:
        budget, module = Budget(trained=100), solo.make(Classifier)
        checkpoint = solo.pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1)
        trainer = solo.trainer(
            halves(), budget, BudgetSchedule(), checkpoint, max_epochs=-1, enable_checkpointing=True, **settings
        )
        trainer.fit(module, data(), ckpt_path=path)
        return module, budget, trainer

    whole, budget, _ = trained()
    path = next(tmp_path.glob("*step=15*"))
    resumed, later, trainer = trained(path)
    assert len(resumed.steps) == 25 - 15
    assert later.spent == budget.spent == 100
    assert resumed.steps == whole.steps[15:]
    assert torch.equal(resumed.net.weight, whole.net.weight)
    assert trainer.max_epochs == -1


def test_a_checkpoint_of_another_unit_is_refused() -> None:
    state = Budget(trained=100).state_dict()
    with pytest.raises(ValueError, match="budget of candidates, but got one of trained"):
        Budget(candidates=100).load_state_dict(state)
    with pytest.raises(ValueError, match="must hold"):
        Budget(candidates=100).load_state_dict({"unit": "candidates"})


def _on_a_rank(amount: dict[str, Any]) -> tuple[int, float]:
    import pytorch_lightning as pl

    kit, budget = Kit(pl), Budget(**amount)
    module = kit.make(Classifier)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=-1,
        callbacks=[ExampleSelection(TopLoss(keep=0.5), across_ranks=True), budget, BudgetSchedule()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data())
    return trainer.global_step, budget.spent


def _on_the_clock() -> int:
    import pytorch_lightning as pl

    class Uneven(Validated):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            time.sleep(0.05 * (1 + self.global_rank))
            super().validation_step(batch, batch_idx)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            time.sleep(0.02 * (1 + self.global_rank))
            return super().training_step(batch, batch_idx)

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=-1,
        callbacks=[Budget(seconds=0.5), BudgetSchedule()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Kit(pl).make(Uneven), data(), loader(8, batch_size=8))
    return trainer.global_step


def test_ranks_stop_together_by_the_clock_too() -> None:
    first, second = ranks.run(2, _on_the_clock)
    assert first == second > 0


@pytest.mark.parametrize(
    ("amount", "steps"),
    [
        ({"trained": 100}, 15),  # batches of 8, 8 and 4 on each rank
        ({"flops": 5 * (8 * 60.0 + 16 * 30)}, 6),
        ({"reference_seconds": 5.0, "prices": {"score": [[8, 1]]}}, 6),
    ],
)
def test_ranks_stop_together(amount: dict[str, Any], steps: int) -> None:
    first, second = ranks.run(2, _on_a_rank, amount)
    assert first == second
    assert first[0] == steps


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one positive amount"),
        ({"seconds": 1.0, "flops": 1.0}, "one positive amount"),
        ({"seconds": 0.0}, "one positive amount"),
        ({"seconds": math.inf}, "one positive amount"),
        ({"reference_seconds": 1.0}, "prices with reference_seconds"),
        ({"seconds": 1.0, "prices": PRICES}, "prices with reference_seconds"),
        ({"seconds": 1.0, "before": 1.0}, "less to be spent before"),
        ({"seconds": 1.0, "before": -1.0}, "less to be spent before"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**settings)


def test_wrong_company(solo: Kit) -> None:
    with pytest.raises(ValueError, match="must stand behind it"):
        solo.fit(solo.make(Classifier), Budget(candidates=80), halves(), data=data(), max_epochs=-1)
    manual = solo.make(Classifier)
    manual.automatic_optimization = False
    with pytest.raises(ValueError, match="optimizes manually"):
        solo.fit(manual, Budget(flops=80), data=data(), max_epochs=-1)


def test_an_exact_budget_foretells_no_epoch_too_many(solo: Any) -> None:
    """Sums of fractions fall short: 17 of 29 epochs foretold 30."""
    foretold: list[int] = []

    class Looks:
        def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
            foretold.append(trainer.max_epochs)

    fit(solo, Budget(candidates=29 * ROWS), solo.callback(Looks), max_epochs=-1)
    assert foretold == [29] * 29
    foretold.clear()
    prices = {"train": [(8, 0.1)], "load": [(8, 0.01)]}
    fit(solo, Budget(reference_seconds=10 * (ROWS // BATCH) * 0.11, prices=prices), solo.callback(Looks), max_epochs=-1)
    assert foretold == [10] * 10
