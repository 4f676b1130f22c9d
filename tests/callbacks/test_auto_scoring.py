"""scoring="auto": which pass, and whether selection pays. Clocks are replaced, so that tests know what was measured."""

import logging
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from litselect.callbacks import ExampleSelection, SelectiveBackprop, auto_scoring
from litselect.callbacks.auto_scoring import AutoScoring
from litselect.callbacks.fidelity import Fidelity
from litselect.callbacks.log_of import log_of
from litselect.scoring import Scores, ScoringPass, capture_check
from litselect.selectors import RandomSubset, RatedSubset, TopLoss, Uncertainty
from tests.callbacks.kit import Classifier, loader_of

N, K = 12, 4


class Clock:
    """Says how long the passes of each kind and the batches of each phase take."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, passes: dict[str, float], plain: float, selected: float
    ) -> None:
        self.time, self.batch = 0.0, {"plain": plain, "selected": selected}
        self.passes, examine, end = passes, ScoringPass.examine, AutoScoring.end
        clock = self

        def timed(scoring: ScoringPass, *args: Any, **kwargs: Any) -> Any:
            kinds = {"small": scoring.resolution, "chunks": scoring.chunk}
            name = " ".join(filter(None, [scoring.precision, *(kind for kind, on in kinds.items() if on)])) or "full"
            clock.time += clock.passes.get(name, 9.0)
            return examine(scoring, *args, **kwargs)

        def ended(auto: AutoScoring, trainer: Any) -> bool:
            clock.time += clock.batch.get(auto.phase, 0.0)
            return end(auto, trainer)

        monkeypatch.setattr(ScoringPass, "examine", timed)
        monkeypatch.setattr(AutoScoring, "end", ended)
        monkeypatch.setattr(auto_scoring, "_now", lambda device: clock.time)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_scoring, "_LENGTHS", {"options": 2, "plain": 2, "selected": 2, "decided": 4})


class Images(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.sizes: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if torch.is_grad_enabled():
            self.sizes.append(len(batch[1]))
        return F.cross_entropy(self.net(batch[0]), batch[1])


def images(batches: int, rows: int = N) -> Any:
    torch.manual_seed(0)
    return loader_of([(torch.randn(rows, 1, 8, 8), torch.arange(rows) % 3) for _ in range(batches)])


def fit(solo: Any, batches: int, callback: Any = None, rows: int = N, **settings: Any) -> tuple[Any, ExampleSelection]:
    callback = callback or ExampleSelection(TopLoss(1 / 3), scoring="auto", **settings)
    torch.manual_seed(1)
    module = solo.make(Images)
    solo.fit(module, callback, data=images(batches, rows), max_epochs=1)
    return module, callback


PASSES = {"full": 3.0, "bf16": 2.0, "bf16 small": 1.0, "small": 1.5}


@pytest.mark.usefixtures("short")
def test_the_cheapest_pass_that_chooses_alike_is_taken(solo: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    Clock(monkeypatch, PASSES, plain=10, selected=5)
    logging.getLogger("pytorch_lightning").propagate = True
    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        module, callback = fit(solo, 9)
    assert callback.auto is not None
    assert callback.auto.chosen == "bf16"  # small images of noise choose others
    assert callback.scoring.precision == "bf16"
    assert callback.auto.pays
    assert module.sizes == [K, K, N, N, K, K, K, K, K]
    assert [record.name for record in caplog.records if "has looked at" in record.message] == ["pytorch_lightning"]
    assert "half resolution" in callback.auto.table


@pytest.mark.usefixtures("short")
def test_choices_that_differ_are_not_worth_their_price(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the bound on the overlap the smallest images win."""
    Clock(monkeypatch, PASSES, plain=10, selected=5)
    monkeypatch.setattr(auto_scoring, "_LEAST_OVERLAP", 0.0)
    assert fit(solo, 9)[1].auto.chosen == "half resolution bf16"  # type: ignore


@pytest.mark.usefixtures("short")
def test_on_a_cpu_chunks_are_looked_at(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, {**PASSES, "chunks": 1.0, "bf16 chunks": 1.5}, plain=10, selected=5)
    _, callback = fit(solo, 9, rows=40)
    assert callback.auto is not None
    assert callback.auto.chosen == "chunks of 32"
    assert callback.scoring.chunk == 32
    assert "bf16, chunks of 64" not in callback.auto.table  # which would be one


@pytest.mark.parametrize(("rows", "device"), [(32, "cpu"), (40, "meta")])
def test_chunks_are_for_cpus_and_larger_batches(rows: int, device: str) -> None:
    auto, tried = AutoScoring("select"), list[int | None]()
    auto.measure(
        lambda scoring: (tried.append(scoring.chunk), Scores(torch.rand(rows)))[1], rows // 2, torch.device(device)
    )
    assert len(tried) == 6
    assert not any(tried)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("when", ["select", "train_all"])
def test_where_selection_does_not_pay(solo: Any, monkeypatch: pytest.MonkeyPatch, when: Any) -> None:
    Clock(monkeypatch, PASSES, plain=5, selected=6)
    with pytest.warns(UserWarning, match=r"does not pay here: a batch takes 8000.00 ms with it, 5000.00 ms without"):
        module, callback = fit(solo, 10, when_unprofitable=when)
    after = N if when == "train_all" else K
    assert module.sizes == [K, K, N, N, K, K, after, after, after, after]
    assert callback.counters.trained == sum(module.sizes)


@pytest.mark.usefixtures("short")
def test_it_looks_again(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, PASSES, plain=5, selected=6)
    step = Images.training_step

    def slower(self: Any, batch: Any, batch_idx: int) -> Any:
        clock.batch["plain"] = 5 if batch_idx < 10 else 20
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Images, "training_step", slower)
    with pytest.warns(UserWarning, match="does not pay"):
        module, callback = fit(solo, 18, when_unprofitable="train_all")
    assert module.sizes == [K, K, N, N, K, K, N, N, N, N, K, K, N, N, K, K, K, K]
    assert callback.auto is not None
    assert callback.auto.pays


@pytest.mark.usefixtures("short")
def test_options_that_fail_are_left_out(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No images here: three options can't run, and say why."""
    Clock(monkeypatch, {"full": 3.0, "bf16": 3.5}, plain=10, selected=5)
    callback = SelectiveBackprop(keep=0.5, scoring="auto", warmup=0)
    module = solo.make(Classifier)
    solo.fit(module, callback, max_epochs=3)
    assert callback.auto is not None
    assert callback.auto.chosen == "full"
    assert callback.auto.table.count("ValueError") == 4


@pytest.mark.usefixtures("short")
def test_all_passes_are_counted(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, PASSES, plain=10, selected=5)
    _, callback = fit(solo, 6)
    assert callback.counters.scored == N * (2 * 6 + 2)


@pytest.mark.usefixtures("short")
def test_passes_that_were_refused_are_not_counted(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, {"full": 3.0, "bf16": 3.5}, plain=10, selected=5)
    callback = ExampleSelection(TopLoss(0.5), scoring="auto")
    solo.fit(solo.make(Classifier), callback, max_epochs=1)  # 4 batches of 8, of which the first two are looked at
    assert callback.counters.scored == 8 * 2 * 2


@pytest.mark.usefixtures("short")
def test_whole_steps_are_timed(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where three batches make one, any three in a row hold one step of the optimizer; the first is not counted."""
    monkeypatch.setattr(auto_scoring, "_LENGTHS", {"options": 1, "plain": 3, "selected": 3, "decided": 9})
    for settings in ({"accumulate_grad_batches": 3}, {}):
        callback, module = ExampleSelection(TopLoss(1 / 3), scoring="auto"), solo.make(Images)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solo.fit(module, callback, data=images(9), max_epochs=1, **settings)
        assert module.sizes == ([K, N, N, N, N, K, K, K, K] if settings else [K, N, N, N, K, K, K, K, K])


def test_memory_that_ends_in_a_check_of_what_is_captured(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check goes on in chunks as well: those of the pass before it, which had to be halved."""
    sizes: list[int] = []
    whole = capture_check.CaptureCheck.whole
    monkeypatch.setattr(
        capture_check.CaptureCheck,
        "whole",
        lambda self, step, size, trace: (sizes.append(size), whole(self, step, size, trace))[1],
    )

    class Small(Images):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if len(batch[0]) > N // 2 and not torch.is_grad_enabled():
                raise torch.OutOfMemoryError("full")
            return super().training_step(batch, batch_idx)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callback = ExampleSelection(TopLoss(1 / 3), scoring="auto")
        solo.fit(solo.make(Small), callback, data=images(3), max_epochs=1)
    assert sizes
    assert max(sizes) <= N // 2


def test_a_selector_that_looks_at_no_losses_is_refused(solo: Any) -> None:
    with pytest.raises(ValueError, match=r"passes are compared by losses, which Uncertainty\(.*does not look at"):
        fit(solo, 2, ExampleSelection(Uncertainty(keep=0.5), scoring="auto"))


def test_state(solo: Any) -> None:
    auto = AutoScoring("select")
    auto.chosen, auto.pays, auto.phase, auto._place = "bf16", False, "decided", 7
    again = AutoScoring("select")
    again.load_state_dict(auto.state_dict())
    assert again.state_dict() == auto.state_dict()
    assert again.scoring.precision == "bf16"
    auto.phase = "plain"  # a look that is broken off begins anew
    assert auto.state_dict()["phase"] == "options"
    with pytest.raises(ValueError, match="no 'chosen'"):
        again.load_state_dict({})


@pytest.mark.usefixtures("short")
def test_resumed(solo: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The decision goes on; so do counts of batches."""
    Clock(monkeypatch, PASSES, plain=10, selected=5)
    _, callback = fit(solo, 8)
    state = callback.state_dict()
    other = ExampleSelection(TopLoss(1 / 3), scoring="auto")
    other.load_state_dict(state)
    assert other.auto is not None
    assert callback.auto is not None
    assert other.auto.state_dict() == callback.auto.state_dict()
    assert other.scoring.precision == "bf16"


@pytest.mark.usefixtures("short")
def test_an_option_may_fail_in_any_way(solo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vision transformers assert the size of their images."""
    Clock(monkeypatch, PASSES, plain=10, selected=5)
    step = Images.training_step

    def asserts(self: Any, batch: Any, batch_idx: int) -> Any:
        assert batch[0].shape[-1] == 8, "wrong size"
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Images, "training_step", asserts)
    _, callback = fit(solo, 7)
    assert callback.auto is not None
    assert callback.auto.chosen == "bf16"
    assert callback.auto.table.count("AssertionError: wrong size") == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"selector": RandomSubset(0.5)},
        {"max_age": 2},
        {"rescore_every": 2},
        {"refill": True},
        {"selector": RatedSubset(0.5), "ratings": torch.zeros(32)},
    ],
)
def test_what_it_can_not_measure_is_refused(solo: Any, settings: Any) -> None:
    callback = ExampleSelection(settings.pop("selector", TopLoss(0.5)), scoring="auto", **settings)
    with pytest.raises(ValueError, match="measures passes over each batch"):
        solo.fit(solo.make(Classifier), callback, max_epochs=1)


def test_batches_that_make_no_step_count() -> None:
    """The median of skips and steps would be a skip."""
    assert auto_scoring._typical([9.0, 0.0, 0.0, 6.0]) == 2.0


def test_the_log_is_that_of_the_trainers_package(solo: Any) -> None:
    class Own(type(solo.trainer())):
        pass

    assert log_of(Own(logger=False, enable_checkpointing=False)).name == "pytorch_lightning"


def test_settings() -> None:
    with pytest.raises(ValueError, match="Pass both, or neither"):
        ExampleSelection(TopLoss(0.5), when_unprofitable="train_all")
    with pytest.raises(ValueError, match="when_unprofitable"):
        ExampleSelection(TopLoss(0.5), scoring="auto", when_unprofitable="stop")  # type: ignore
    with pytest.raises(TypeError, match='"ledger" or "auto"'):
        ExampleSelection(TopLoss(0.5), scoring="automatic")  # type: ignore


def test_fidelity() -> None:
    found, full = Fidelity(), torch.arange(8.0)
    found.add(full.flip(0), full, 4, 5.0)
    assert (found.overlap, found.seconds) == (0.0, 5.0)
    assert found.correlation == pytest.approx(-1)
    found.add(full**3, full, 4, 1.0)
    found.add(full[[0, 1, 2, 4, 3, 5, 6, 7]], full, 4, 2.0)
    assert found.overlap == pytest.approx((0 + 1 + 0.75) / 3)
    assert found.seconds == 1.5
