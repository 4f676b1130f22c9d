"""`python -m experiments.speed`: how floors come about, how trainings take turns, and what is written."""

import json
from collections.abc import Callable
from fractions import Fraction
from itertools import count as counting_up
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.allocator import keep_memory
from experiments.lightning_manners import quiet
from experiments.rating_text.corpus import Text
from experiments.records import Row, read
from experiments.step_costs import fidelity, floors, freed_memory, study
from experiments.step_costs.arm import Arm, Plan
from experiments.step_costs.block import FEWER, FORWARD, PLAIN, Block
from experiments.step_costs.choices import chosen_in_turns
from experiments.step_costs.kinds import Kind
from experiments.step_costs.measurement import kept
from experiments.step_costs.models import Subject
from experiments.step_costs.options import OPTIONS
from experiments.step_costs.page import write_page
from experiments.step_costs.scaling import mlps_by_size
from experiments.step_costs.step_times import StepTimes
from experiments.step_costs.turns import Turns
from experiments.step_costs.verdict import judged, verdict
from experiments.step_costs.vit import VisionTransformer
from litselect.callbacks.early_choice import EarlyChoice
from litselect.callbacks.fidelity import overlap, spearman
from tests.experiments.conftest import Command

COLUMNS = (
    "device", "model", "precision", "compiled", "keep", "n", "k", "parameters", "option", "plain_ms", "measured",
    "measured_25", "measured_75", "score", "forward", "step_k", "floor", "ratio", "memory", "rounds", "steps",
)  # fmt: skip
TINY = (
    "models=[mlp,lm]", "precisions=[fp32,bf16]", "keeps=[1/3]", "options=[full,bf16,ledger,stale,random]",
    "rounds=2", "steps=1", "discard=2", "sizes.cpu.mlp.rows=12", "sizes.cpu.mlp.width=4", "sizes.cpu.lm.rows=12",
    "sizes.cpu.lm.length=8", "sizes.cpu.lm.width=8", "sizes.cpu.lm.depth=1", "scaling.rows=[8,16]",
    "scaling.parameters=[1e4]", "scaling.options=[full]", "scaling.history=[64,128]", "scaling.ledger=[100,1000]",
    "scaling.rounds=2", "scaling.steps=1", "scaling.ledger_rounds=1", "fidelity.epochs=2", "fidelity.rows=48",
    "data_path.options=[full,ledger]", "data_path.rows=8", "data_path.batches=5", "data_path.side=16",
    "data_path.rounds=1", "freed_memory.models=[mlp]", "freed_memory.times=[2]", "freed_memory.options=[]",
)  # fmt: skip


def test_floors() -> None:
    assert floors.of_parts(0.25, 0.375) == 0.625
    assert floors.of_parts(0.25, 0.375, share=0.5) == 0.5
    assert floors.of_parts(0, 0.375) == 0.375
    assert floors.of_reuse(0.5, 0.25) == 0.625
    assert floors.of_reuse(0.3, 1) == 1
    assert floors.of_cheapest([0.5, 0.125, 0.25], 0.25) == 0.375


def test_rows_kept() -> None:
    assert [kept(keep, 60) for keep in (Fraction("1/3"), Fraction("1/10"))] == [20, 6]
    assert kept(Fraction("1/10"), 2) == 1


def test_costs_are_those_of_their_round() -> None:
    small = Kind(resolution=0.5)
    seconds = {
        PLAIN: [1.0, 2.0, 4.0], FEWER: [0.5, 1.0, 2.0], FORWARD: [0.25, 0.5, 1.0],
        Kind(): [0.25, 0.5, 1.0], Kind(bf16=True): [0.125, 0.25, 0.5], small: [0.0625, 0.125, 0.25],
        "full": [1.5, 1.5, 3.0], "random": [0.5, 1.0, 2.0], "reuse": [0.625, 1.25, 2.5], "auto": [0.625, 1.25, 2.5],
        "every_2": [0.625, 1.25, 2.5], "stale": [0.5, 1.0, 2.0], "stale_scoring": [1.0, 2.0, 4.0],
    }  # fmt: skip
    memory = {PLAIN: 1000, "full": 500, "stale": 250, "stale_scoring": 750}
    block = Block({**seconds}, {**memory}, kept=0.5)
    names = ["full", "random", "reuse", "auto", "every_2", "stale"]
    rows = {row["option"]: row for row in block.rows(names)}
    assert list(rows) == [*names, "stale_both"]
    full = rows["full"]
    assert [float(full[name]) for name in ("measured", "measured_25", "measured_75")] == [0.75, 0.75, 1.125]
    assert [float(full[name]) for name in ("score", "step_k", "forward", "floor")] == [0.25, 0.5, 0.25, 0.75]
    assert (float(full["ratio"]), float(full["plain_ms"]), float(full["memory"])) == (1, 2000, 0.5)
    floor = {name: float(row["floor"]) for name, row in rows.items()}
    assert (floor["random"], floor["stale"], floor["stale_both"]) == (0.5, 0.5, 0.625)
    assert (floor["reuse"], floor["auto"], floor["every_2"]) == (0.625, 0.625, 0.625)  # `auto` takes no small images
    assert float(rows["stale_both"]["measured"]) == 0.75
    assert (rows["stale_both"]["memory"], rows["stale"]["memory"], rows["random"]["memory"]) == ("0.7500", "0.2500", "")


def test_all_take_turns_and_none_clears_away_before_the_last_is_done() -> None:
    order: list[str] = []

    def work(name: str, turns: int) -> Callable[..., None]:
        def run(pause: Callable[[], None], end: Callable[[], None]) -> None:
            for turn in range(turns):
                order.append(f"{name}{turn}")
                pause()
            end()
            order.append(f"{name} clears")

        return run

    Turns({"a": work("a", 1), "b": work("b", 3)}).run()
    assert order == ["a0", "b0", "b1", "b2", "a clears", "b clears"]


def test_a_failure_ends_all_turns() -> None:
    ended: list[str] = []

    def waits(pause: Callable[[], None], end: Callable[[], None]) -> None:
        try:
            while True:
                pause()
        finally:
            ended.append("waits")

    def fails(pause: Callable[[], None], end: Callable[[], None]) -> None:
        pause()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Turns({"waits": waits, "fails": fails}).run()
    assert ended == ["waits"]


def test_options_apply_where_they_make_a_difference() -> None:
    text, images, fixed = (Subject(name, 8, {}) for name in ("lm", "vit", "mlp"))
    assert not OPTIONS["half_resolution"].applies(text, "fp32")
    assert not OPTIONS["half_resolution"].applies(fixed, "fp32")
    assert OPTIONS["half_resolution"].applies(images, "bf16")
    assert not OPTIONS["bf16"].applies(images, "bf16")
    assert [name for name, option in OPTIONS.items() if option.fresh and option.share < 1] == []
    assert not OPTIONS["ledger"].fresh
    assert not OPTIONS["every_2"].fresh


def test_every_turn_bears_the_cost_of_its_own_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """In use rows are chosen for many batches in a row, which nearly all turns would not notice."""
    choose, batch_start = EarlyChoice.__call__, StepTimes.on_train_batch_start
    chosen, by_turn = [0], list[int]()

    def counting(self: EarlyChoice, length: int, batches: Any) -> Any:
        chosen[0] += len(batches) * (self._trainer.current_epoch == 1)
        return choose(self, length, batches)

    def noting(self: StepTimes, *given: Any) -> None:
        before = len(self.seconds)
        batch_start(self, *given)
        if len(self.seconds) > before and len(self.seconds) % 4 == 0:
            by_turn.append(chosen[0])

    monkeypatch.setattr(EarlyChoice, "__call__", counting)
    monkeypatch.setattr(StepTimes, "on_train_batch_start", noting)
    subject = Subject("mlp", 12, {"width": 4, "depth": 1})
    plan = Plan("cpu", rounds=4, steps=4, discard=3, memory=False)
    arm = Arm(plan, subject, subject.learner(), "fp32", 12, OPTIONS["ledger"], 1 / 3)
    with quiet(), chosen_in_turns(plan.steps):
        arm(lambda: None, lambda: None)
    assert len(by_turn) == 4
    assert min(after - before for before, after in pairwise(by_turn)) >= plan.steps


def test_agreement() -> None:
    exact = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert spearman(exact, 10 * exact) == pytest.approx(1)
    assert spearman(exact, -exact) == pytest.approx(-1)
    assert overlap(exact, torch.tensor([4.0, 1.0, 2.0, 3.0]), 2) == 0.5


def test_networks() -> None:
    net = VisionTransformer(3, 8, 10, patch=2, width=8, depth=1, heads=2)
    assert net(torch.randn(2, 3, 4, 4)).shape == net(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    group = Subject("resnet_gn", 4, {"width": 8, "blocks": [1, 1]}).learner()
    kinds = {type(child).__name__ for child in group.modules()}
    assert "GroupNorm" in kinds
    assert "BatchNorm2d" not in kinds
    for count, subject in mlps_by_size([10_000, 1_000_000], 8).items():
        assert sum(p.numel() for p in subject.learner().parameters()) == pytest.approx(count, rel=0.1)


def test_verdict_prints_losses_as_readily_as_wins() -> None:
    def row(option: str, precision: str, plain: float, measured: float, floor: float) -> Row:
        return {
            "model": "vit", "precision": precision, "compiled": "false", "keep": "1/3", "option": option,
            "plain_ms": str(plain), "measured": str(measured), "floor": str(floor), "ratio": str(measured / floor),
        }  # fmt: skip

    rows = [
        row("bf16", "fp32", 50, 0.47, 0.46), row("stale", "fp32", 50, 0.40, 0.34), row("stale", "fp32", 5, 1.2, 0.4),
        row("full", "bf16", 30, 0.70, 0.69), row("half_resolution", "bf16", 30, 0.45, 0.44),
    ]  # fmt: skip
    near, far = judged(rows)
    assert (len(near), far) == (3, [rows[1]])  # a step of 5 ms is not judged
    text = "\n".join(verdict(rows, "below"))
    assert "3 of 4 cells meet it, 1 do not" in text
    assert "| ViT | fp32 | 50 | bf16 | 0.47 | 0.48 | met | 0.46 |" in text
    assert "| ViT | fp32 | 50 | stale | 0.40 | 0.35 | missed by 0.05 | 0.34 |" in text
    assert "| ViT | bf16 | 0.70 | half_resolution | 0.45 | reaches it |" in text


def test_a_page_without_results_says_how_to_get_them(tmp_path: Path) -> None:
    write_page(tmp_path / "speed.md")
    text = (tmp_path / "speed.md").read_text()
    assert "CPU: not yet run; the command is** `python -m experiments.speed device=cpu`" in text
    assert "GPU: not yet run; the command is** `python -m experiments.speed device=cuda" in text


def test_the_training_of_an_option_is_timed_and_its_pages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By clocks that go on by 1 and by 3 whenever they are looked at, which is once at either end of a batch."""
    monkeypatch.setattr(freed_memory, "clock", lambda device: counting_up().__next__)
    monkeypatch.setattr(freed_memory, "_pages", counting_up(step=3).__next__)
    third = Fraction("1/3")
    assert freed_memory._training(Subject("mlp", 12, {"width": 4, "depth": 1}), "ledger", third, 1) == (1, 3)


def test_bad_settings_are_refused(application: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for setting, words in (
        ("options=[best]", "received best"), ("models=[bert]", "received bert"), ("device=tpu", "cpu or cuda"),
    ):  # fmt: skip
        assert application("speed", f"page={tmp_path}/speed.md", setting) == 2
        assert words in capsys.readouterr().err


@pytest.mark.draws
def test_results_page_and_resumption(
    application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = Text(documentation="All the words there are, and some that there are not. " * 20, code="")
    monkeypatch.setattr(fidelity, "standard_library", lambda: (words,))  # takes ten seconds to read
    arguments = ("speed", f"page={tmp_path}/speed.md", *TINY)
    assert application(*arguments) == 0
    rows = read(tmp_path / "run" / "results.csv")
    assert tuple(rows[0]) == COLUMNS
    assert {row["model"] for row in rows} == {"mlp", "lm"}
    measured = [(row["model"], row["precision"], row["option"]) for row in rows]
    assert len(set(measured)) == len(measured) == 2 * (6 + 5)  # `stale` is two; `bf16` is of fp32 alone
    for row in rows:
        assert 0 < float(row["measured_25"]) <= float(row["measured"]) <= float(row["measured_75"])
        assert float(row["ratio"]) > 0
        assert float(row["memory"]) > 0
        assert (float(row["score"]) > 0) == (row["option"] in ("full", "bf16", "stale_both"))
        assert (row["n"], row["k"]) == ("12", "4")
    text = (tmp_path / "speed.md").read_text()
    assert "GPU: not yet run; the command is** `python -m experiments.speed device=cuda" in text
    for heading in ("## CPU", "### MLP, fp32", "### Transformer LM, bf16", "(speed/cpu.svg)", "Near the floor, by"):
        assert heading in text
    assert (tmp_path / "speed" / "cpu.svg").stat().st_size > 10_000
    decoded = {row["option"]: float(row["decoded"]) for row in read(tmp_path / "speed" / "cpu" / "data_path.csv")}
    assert decoded == {"plain": 1, "full": 1, "ledger": 0.375}  # 3 of 8
    freed = read(tmp_path / "speed" / "cpu" / "freed_memory.csv") if keep_memory() else []
    assert [(row["n"], row["option"], row["memory"]) for row in freed] == [
        ("24", "plain", way) for way in (freed_memory.WAYS if keep_memory() else ())
    ]
    assert ("Memory that is given back" in text) == keep_memory()
    agreement = read(tmp_path / "speed" / "cpu" / "fidelity.csv")
    assert {(row["model"], row["option"]) for row in agreement} == {
        (model, option) for model in ("mlp", "lm") for option in ("bf16", "ledger", "stale")
    }
    assert json.loads((tmp_path / "speed" / "cpu" / "facts.json").read_text())["torch"]

    def refuses(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(study, "Group", refuses)
    capsys.readouterr()
    assert application(*arguments) == 0
    assert capsys.readouterr().out.count(": kept") == 4 + 6
    assert read(tmp_path / "run" / "results.csv") == rows
    with pytest.raises(AssertionError, match="measured again"):
        application(*arguments, "rounds=3")
