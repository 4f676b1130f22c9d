"""What selection logs, and that it is right."""

from typing import Any

import pytest
import torch

from litselect.callbacks import Counters, ExampleSelection, SelectiveBackprop, selection_session
from litselect.scoring import ScoringPass
from litselect.selectors import RandomSubset, TopLoss
from tests.callbacks.kit import Classifier, loader

COUNTERS = {"seen", "scored", "reused", "trained", "steps", "scoring_seconds", "selection_seconds", "training_seconds"}
SECONDS = {name for name in COUNTERS if name.endswith("seconds")}


class Count:
    """Counts for itself, before each batch is selected from."""

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep, self.losses, self.chosen, self.seen, self.trained = keep, [], [], [0], [0]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            losses = pl_module.losses(batch)
        k = max(1, round(self.keep * len(losses)))
        self.losses.append(float(losses.mean()))
        self.chosen.append(float(losses.topk(k).values.mean()))
        self.seen.append(self.seen[-1] + len(losses))
        self.trained.append(self.trained[-1] + k)


def selected(row: dict[str, float]) -> dict[str, float]:
    return {key.removeprefix("select/"): value for key, value in row.items() if key.startswith("select/")}


def fit(kit: Any, callback: Any, *others: Any, data: Any = None, module: type = Classifier, **settings: Any) -> Any:
    logger = kit.logger()
    net = kit.make(module)
    trainer = kit.fit(net, callback, *others, data=loader(60, 8) if data is None else data, logger=logger, **settings)
    return trainer, logger.rows, net


def test_values_are_right(kit: Any) -> None:
    callback, count = ExampleSelection(TopLoss(keep=0.25)), kit.callback(Count, 0.25)
    _, logged, _ = fit(kit, callback, count, max_epochs=2, log_every_n_steps=3)
    steps = [(step, row) for step, row in logged if "loss_step" in row]
    assert [step for step, _ in steps] == [2, 5, 8, 11, 14]
    for step, row in steps:
        found = selected(row)
        assert found.keys() == COUNTERS | {"kept", "loss_all", "loss_chosen"}
        n = 4 if step % 8 == 7 else 8
        assert found["kept"] == pytest.approx(max(1, round(n / 4)) / n)
        assert found["loss_all"] == pytest.approx(count.losses[step], rel=1e-5)
        assert found["loss_chosen"] == pytest.approx(count.chosen[step], rel=1e-5)
        assert found["loss_chosen"] > found["loss_all"]
        assert found["seen"] == found["scored"] == count.seen[step + 1]
        assert found["trained"] == count.trained[step + 1]
        assert found["steps"] == step + 1
    epochs = [row for _, row in logged if "loss_epoch" in row]
    assert [selected(row)["seen"] for row in epochs] == [60, 120]
    assert [selected(row)["trained"] for row in epochs] == [15, 30]
    assert [selected(row)["steps"] for row in epochs] == [8, 16]


def test_large_counts_are_logged_to_the_last_example(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=0.25))

    class Late:
        def on_train_start(self, *_: Any) -> None:
            callback.counters.seen = 2**40

    _, logged, _ = fit(solo, callback, solo.callback(Late), data=loader(16, 8))
    assert [int(selected(row)["seen"]) - 2**40 for _, row in logged] == [8, 16, 16]


def test_without_a_logger_no_column_is_made(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(selection_session, "logged", lambda session, row: made.append(row) or {})
    solo.fit(solo.make(Classifier), ExampleSelection(TopLoss(keep=0.25)), data=loader(16, 8))
    assert made == []
    fit(solo, ExampleSelection(TopLoss(keep=0.25)), data=loader(16, 8))
    assert made == ["step", "step", "epoch"]


class Looking:
    """Notes what can be monitored at the end of batches and epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._look(trainer, "select/kept")

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self._look(trainer, "select/trained")

    def _look(self, trainer: Any, name: str) -> None:
        self.found.append((name, float(trainer.callback_metrics.get(name, torch.nan))))


@pytest.mark.parametrize("logs", [True, False])
def test_what_is_logged_can_be_monitored(kit: Any, logs: bool) -> None:
    looking, callback = kit.callback(Looking), ExampleSelection(TopLoss(keep=0.25))
    stopping = kit.pl.callbacks.EarlyStopping("select/trained", patience=1, check_on_train_epoch_end=True)
    settings = {"logger": kit.logger()} if logs else {}
    trainer = kit.fit(
        kit.make(Classifier),
        callback,
        looking,
        stopping,
        data=loader(16, 8),
        max_epochs=5,
        log_every_n_steps=50,
        **settings,
    )
    kept = ("select/kept", 0.25)  # after every batch, whatever log_every_n_steps says
    assert looking.found[:6] == [kept, kept, ("select/trained", 4.0), kept, kept, ("select/trained", 8.0)]
    assert trainer.current_epoch == 2, "what grows is no better"


def test_our_keys_come_with_rows_of_the_module_only(kit: Any) -> None:
    class Seldom(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.losses(batch).mean()
            if batch_idx == 3:
                self.log("loss", loss)
            return loss

    class Never(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.losses(batch).mean()

    class AtTheEnd(Never):
        def on_train_epoch_end(self) -> None:
            self.log("done", 1.0)

    for module in (Seldom, Never, AtTheEnd):
        _, plain, _ = fit(kit, RandomCallback.of(kit), module=module, max_epochs=2)
        for callback in (
            ExampleSelection(RandomSubset(keep=1.0)),
            SelectiveBackprop(keep=0.5, warmup=0, loss_fn=losses_of),
        ):
            _, logged, _ = fit(kit, callback, module=module, max_epochs=2)
            assert [(step, row.keys()) for step, row in plain] == [
                (step, {key for key in row if not key.startswith("select/")}) for step, row in logged
            ]


def losses_of(module: Any, batch: Any) -> torch.Tensor:
    return module.losses(batch)


class RandomCallback:
    """A callback that does nothing."""

    @staticmethod
    def of(kit: Any) -> Any:
        return kit.callback(RandomCallback)


@pytest.mark.filterwarnings("ignore:Selection by .* never begins")
def test_counters_of_training_on_everything(solo: Any) -> None:
    callback = ExampleSelection(RandomSubset(keep=0.5), warmup=2)
    fit(solo, callback, max_epochs=2)
    assert callback.counters.seen == callback.counters.trained == 120
    assert callback.counters.scored == 0
    callback = SelectiveBackprop(keep=0.5, scoring=ScoringPass(), warmup=2)
    _, logged, _ = fit(solo, callback, max_epochs=2)
    assert callback.counters.seen == callback.counters.trained == 120
    assert callback.counters.scored == 8  # the first batch, on which the capture is checked
    assert {selected(row)["kept"] for _, row in logged if "loss_step" in row} == {1.0}
    assert sum("select/loss_all" in row for _, row in logged) == 1
    assert not any("select/loss_chosen" in row for _, row in logged)


def test_counters_add_up(kit: Any) -> None:
    callback = SelectiveBackprop(keep=1 / 3, scoring=ScoringPass(), warmup=1)
    trainer, logged, net = fit(kit, callback, data=loader(60, 12), max_epochs=3, accumulate_grad_batches=2)
    counters = callback.counters
    assert counters.seen == 180
    assert counters.scored == 12 + 120
    assert counters.trained == sum(len(ids) for ids in net.steps) == 60 + 2 * 5 * 4
    assert counters.steps == trainer.global_step == 9
    for name in COUNTERS:
        values = [row[f"select/{name}"] for _, row in logged if f"select/{name}" in row]
        assert values == sorted(values)
    assert all(getattr(counters, name) > 0 for name in SECONDS)


def test_seconds_are_where_the_time_goes(solo: Any) -> None:
    import time

    class Slow(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            time.sleep(0.03 if torch.is_grad_enabled() else 0.01)
            return super().training_step(batch, batch_idx)

    callback = ExampleSelection(TopLoss(keep=0.5))
    start = time.perf_counter()
    fit(solo, callback, module=Slow, data=loader(40, 8))
    wall = time.perf_counter() - start
    counters = callback.counters
    assert counters.training_seconds >= 5 * 0.03
    assert counters.scoring_seconds >= 6 * 0.01
    assert counters.scoring_seconds + counters.selection_seconds + counters.training_seconds <= wall


def test_the_progress_bar_shows_what_is_kept(kit: Any) -> None:
    trainer, logged, _ = fit(kit, ExampleSelection(TopLoss(keep=0.25), prog_bar=True))
    assert trainer.progress_bar_metrics["kept"] == pytest.approx(0.25)
    assert not any("kept" in row for _, row in logged)
    trainer, _, _ = fit(kit, ExampleSelection(TopLoss(keep=0.25)))
    assert "kept" not in trainer.progress_bar_metrics


def test_what_is_logged_after_the_end_is_not_from_before(kit: Any) -> None:
    trainer, logged, _ = fit(kit, ExampleSelection(TopLoss(keep=0.25), end=0.5, prog_bar=True), data=loader(64, 8))
    found = [selected(row) for _, row in logged if "loss_step" in row]
    assert ["loss_chosen" in row for row in found] == [True] * 4 + [False] * 4
    assert [row["kept"] for row in found] == [0.25] * 4 + [1.0] * 4
    assert trainer.progress_bar_metrics["kept"] == 1.0


def test_refilled_batches_are_logged_once(solo: Any) -> None:
    callback = ExampleSelection(TopLoss(keep=0.5), refill=True)
    _, logged, _ = fit(solo, callback, data=loader(64, 8))
    found = [(step, selected(row)) for step, row in logged if "loss_step" in row]
    assert [step for step, _ in found] == [0, 1, 2, 3]
    assert [row["trained"] for _, row in found] == [8, 16, 24, 32]
    assert [row["seen"] for _, row in found] == [16, 32, 48, 64]
    assert {row["kept"] for _, row in found} == {0.5}


def test_counters_can_be_saved() -> None:
    counters = Counters(seen=3, scoring_seconds=0.5)
    other = Counters()
    other.load_state_dict(counters.state_dict())
    assert other == counters
