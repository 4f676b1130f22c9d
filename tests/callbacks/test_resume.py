"""A run that is broken off and resumed ends as the uninterrupted one, to the bit."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from litselect.callbacks import (
    ExampleSelection,
    SelectiveBackprop,
    example_selection,
    rank_buffers,
    rank_tables,
    run_state,
)
from litselect.callbacks.loop_patch import LoopPatch
from litselect.callbacks.refill_queue import RefillQueue
from litselect.selectors import LossPercentile, NoiseGuard, RandomSubset, RankSampling, TopLoss
from tests.callbacks import ranks, runs
from tests.callbacks.kit import differences
from tests.callbacks.runs import (
    SAVES,
    SELECTIONS,
    SELECTORS,
    Net,
    NetWithEnds,
    Noisy,
    checkpoints,
    running_no_code,
    selection,
    train,
)
from tests.selectors.specimens import Wrapper

CHOICES = [*SELECTIONS, *(name for name in SELECTORS if name != "KeepAll")]
EXACT = [name for name in SAVES if "plain" not in name and name != "within the epoch, validating"]


def resumed_differences(folder: Path, name: str, save: str, most: int | None = 3, **settings: Any) -> Any:
    """For some checkpoints of a run, at `most` so many, by chance: what differs at the end of the runs from there."""
    expected = train(folder, name, save, **settings)
    saved = checkpoints(folder)
    assert len(saved) >= 2
    chosen = saved if most is None else random.Random(f"{name} {save}").sample(saved[:-1], min(most, len(saved) - 1))
    found = {}
    for path in chosen:
        differ = differences(expected, train(folder / "again", name, save, resume=path, **settings))
        if path == saved[-1]:  # nothing was left to do: training did not start
            differ = [place for place in differ if not place.startswith(("/streams", "/steps/1"))]
        found[path.stem] = differ
    return {stem: differ for stem, differ in found.items() if differ}


# ---------------------------------------------------------------------- one process


@pytest.mark.parametrize("save", ["epoch end", "validation end", "within the epoch"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_resumed_runs_end_alike(tmp_path: Path, name: str, save: str) -> None:
    assert resumed_differences(tmp_path, name, save, most=1) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_goes_on(tmp_path: Path, name: str) -> None:
    assert resumed_differences(tmp_path, name, "within the epoch", most=1, epochs=2) == {}


@pytest.mark.parametrize("first", ["step=1", "step=5"])
def test_a_resumed_run_can_be_resumed(tmp_path: Path, first: str) -> None:
    """After the first batch, and after the last one of an epoch (where Lightning's own counts go astray)."""
    save = "within the epoch"
    expected = train(tmp_path, "TopLoss", save, hooks=True)
    (path,) = tmp_path.glob(f"*{first}.ckpt")
    assert differences(expected, train(tmp_path / "once", "TopLoss", save, resume=path, hooks=True)) == []
    for path in checkpoints(tmp_path / "once")[3:-1:2]:
        assert differences(expected, train(tmp_path / "twice", "TopLoss", save, resume=path, hooks=True)) == []


def test_it_could_not_with_lightnings_counts(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(example_selection, "settle_progress", lambda *args: None)
    expected = train(tmp_path, "TopLoss", "within the epoch")
    (path,) = tmp_path.glob("*step=5.ckpt")
    train(tmp_path / "once", "TopLoss", "within the epoch", resume=path)
    (path,) = (tmp_path / "once").glob("*step=10.ckpt")
    again = train(tmp_path / "twice", "TopLoss", "within the epoch", resume=path)
    assert (expected["steps"][0], again["steps"][0]) == (15, 20)


@pytest.mark.parametrize("save", ["epoch end", "within the epoch"])
def test_training_for_a_number_of_steps(tmp_path: Path, save: str) -> None:
    assert resumed_differences(tmp_path, "TopLoss", save, most=None, epochs=-1, max_steps=13, hooks=True) == {}


@pytest.mark.slow
@pytest.mark.parametrize("save", EXACT)
@pytest.mark.parametrize("name", CHOICES)
def test_every_checkpoint_ends_alike(tmp_path: Path, name: str, save: str) -> None:
    assert resumed_differences(tmp_path, name, save, most=None, hooks=True, epochs=4) == {}


@pytest.mark.parametrize("save", [save for save in EXACT if save not in ("epoch end", "validation end")])
def test_wherever_the_checkpoint_was_made(tmp_path: Path, save: str) -> None:
    """Loaders that are set to an epoch's end begin the next one or don't; hooks draw from the streams."""
    assert resumed_differences(tmp_path, "refill", save, most=3, hooks=True) == {}


@pytest.mark.parametrize("save", ["epoch end", "validation end"])
def test_with_worker_processes(tmp_path: Path, save: str) -> None:
    assert resumed_differences(tmp_path, "refill", save, most=1, workers=2) == {}


@pytest.mark.parametrize(("name", "save"), [("default", "within the epoch"), ("default without ids", "epoch end")])
def test_a_training_that_begins_with_each_example_once(tmp_path: Path, name: str, save: str) -> None:
    """Of two epochs' worth, so that the first epoch selects; checkpoints within it go on with that."""
    expected = train(tmp_path, name, save, epochs=5)
    assert expected["counters"]["trained"] == 5 * 14, "0.4 of every batch of 8 and of the last one of 4"
    for path in checkpoints(tmp_path)[:3]:
        assert differences(expected, train(tmp_path / "again", name, save, resume=path, epochs=5)) == []


REMEMBERING: dict[str, Callable[[], Any]] = {  # selectors that are another after each answer
    "RankSampling": lambda: RankSampling(0.4, steps=12),
    "NoiseGuard": lambda: NoiseGuard(LossPercentile(0.4), "auto"),
    "generator": lambda: LossPercentile(0.4, generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_choices_before_loading_with_worker_processes(tmp_path: Path, name: str) -> None:
    """Batches are sent for in advance, in vain where the iterator is made again."""

    def run(**settings: Any) -> Any:
        callback = ExampleSelection(REMEMBERING[name](), scoring="ledger")
        return train(tmp_path, name, callback=callback, workers=2, **settings)

    expected, saved = run(), checkpoints(tmp_path)[:-1]
    assert len(saved) == 2
    assert [differences(expected, run(resume=path)) for path in saved] == [[], []]


def test_at_optimizer_steps_of_accumulated_gradients(tmp_path: Path) -> None:
    """`every_n_train_steps` saves nothing within a window, whose gradients no checkpoint holds."""
    settings: dict[str, Any] = {"accumulate_grad_batches": 2}
    assert resumed_differences(tmp_path, "Selective-Backprop", "within the epoch", most=None, **settings) == {}


def test_a_run_that_was_over_goes_on(tmp_path: Path) -> None:
    """`save_checkpoint` after `fit`, then more epochs."""
    expected = train(tmp_path, "refill", epochs=3)

    class SaveWhenOver(pl.Callback):
        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            trainer.save_checkpoint(tmp_path / "over.ckpt")

    train(tmp_path / "short", "refill", epochs=2, more=[SaveWhenOver()])
    assert differences(expected, train(tmp_path / "long", "refill", epochs=3, resume=tmp_path / "over.ckpt")) == []


def test_a_loader_without_declared_batch_size(tmp_path: Path) -> None:
    """The size of a training batch is that of the largest batch seen, before the checkpoint too."""
    settings: dict[str, Any] = {"batch_size": None}
    assert resumed_differences(tmp_path, "refill with top losses", "within the epoch", most=None, **settings) == {}


# Each piece of state, by what differs at the end when it is missing.
PIECES: dict[str, tuple[str, str, Callable[[Any], Any], str]] = {
    "selector": ("RandomSubset", "epoch end", lambda own: own | {"selector": {}}, "/weights"),
    "queue": ("refill", "epoch end", lambda own: own | {"queue": RefillQueue().state_dict()}, "/weights"),
    "streams": ("Selective-Backprop", "epoch end", lambda own: own | {"streams": None}, "/weights"),
    "skipped": ("refill", "validation within the epoch", lambda own: own | {"skipped": False}, "/steps"),
    "verified": ("warming up", "epoch end", lambda own: own | {"verified": False}, "/counters/scored"),
}


@pytest.mark.parametrize("piece", PIECES)
def test_every_piece_of_state_is_needed(tmp_path: Path, monkeypatch: Any, piece: str) -> None:
    name, save, broken, where = PIECES[piece]
    whole = run_state.own_state
    monkeypatch.setattr(example_selection, "own_state", lambda *args: broken(whole(*args)))
    found = resumed_differences(tmp_path, name, save, most=None)
    assert any(place.startswith(where) for differ in found.values() for place in differ), found


def early(patch: Any, owner: Any, name: str, before: Callable[[], None]) -> None:
    """In place of `LoopPatch.once`: at once."""
    before()


@pytest.mark.parametrize("save", ["epoch end", "within the epoch, loader that finishes"])
def test_the_streams_must_be_restored_after_the_hooks(tmp_path: Path, monkeypatch: Any, save: str) -> None:
    monkeypatch.setattr(LoopPatch, "once", early)
    assert resumed_differences(tmp_path, "Selective-Backprop", save, most=None, hooks=True) != {}


# ---------------------------------------------------------------------- two ranks


def resume_on_ranks(folder: str, cases: list[tuple[str, str, dict[str, Any]]]) -> Any:
    """On each rank: what differs at the end of the resumed runs."""
    found = {}
    for name, save, settings in cases:
        here = Path(folder) / f"{name} {save} {settings}"
        expected = train(here, name, save, world=2, **settings)
        torch.distributed.barrier()
        for path in checkpoints(here)[:-1][:: 2 if "within" in save else 1]:
            differ = differences(expected, train(here / "again", name, save, world=2, resume=path, **settings))
            found[f"{name}, {save}, {settings}, {path.stem}"] = differ
    return found


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("Selective-Backprop", "epoch end", {}),
    ("refill", "validation end", {}),
    ("refill", "within the epoch", {}),
    ("across ranks", "epoch end", {}),
    ("independent draws", "within the epoch", {}),
    ("TopLoss", "epoch end", {"workers": 2}),
    ("a live rater", "within the epoch", {}),
    ("ages", "within the epoch", {"epochs": 2}),
]


def test_two_ranks_resume_exactly(tmp_path: Path) -> None:
    results = ranks.run(2, resume_on_ranks, str(tmp_path), CASES, timeout=120)
    assert len(results[0]) >= 10
    for rank, found in enumerate(results):
        assert {case: differ for case, differ in found.items() if differ} == {}, f"on rank {rank}"


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", CHOICES)
def test_two_ranks_resume_exactly_from_everywhere(tmp_path: Path, name: str) -> None:
    workers = {save: (0,) if "within" in save else (0, 2) for save in EXACT}
    cases = [(name, save, {"hooks": True, "workers": w}) for save in EXACT for w in workers[save]]
    for found in ranks.run(2, resume_on_ranks, str(tmp_path), cases, timeout=1400):
        assert {case: differ for case, differ in found.items() if differ} == {}


def without_state_of_its_rank(folder: str, what: str) -> Any:
    """As `resume_on_ranks`, but with a piece of the ranks' state missing."""
    if what == "buffers":
        rank_buffers.own_buffers = run_state.own_buffers = lambda module: {}
    elif what == "states":
        gather = run_state.gather_ranks
        example_selection.gather_ranks = lambda own: [gather(own)[0]] * 2
    elif what == "ledgers":  # of another number of ranks: what all know together
        gather = rank_tables.gather_ranks
        rank_tables.gather_ranks = lambda own: [*gather(own), own]
        return resume_on_ranks(folder, [("ages", "within the epoch", {"epochs": 2})])
    return resume_on_ranks(folder, [("Selective-Backprop", "epoch end", {})])


@pytest.mark.parametrize(("what", "where"), [("buffers", "/"), ("states", "/"), ("ledgers", "/weights")])
def test_every_rank_needs_its_own_state(tmp_path: Path, what: str, where: str) -> None:
    found = ranks.run(2, without_state_of_its_rank, str(tmp_path), what)
    assert any(place.startswith(where) for differ in found[1].values() for place in differ)


# ---------------------------------------------------------------------- what fits only in part


@pytest.mark.parametrize("module", [Net, NetWithEnds])
@pytest.mark.parametrize("save", ["within the epoch", "within the epoch, validating"])
def test_what_lightning_leaves_out_is_told(tmp_path: Path, save: str, module: type, monkeypatch: Any) -> None:
    """A checkpoint of the last batch of an epoch, made before the epoch ended."""
    monkeypatch.setattr(runs, "Net", module)
    expected = train(tmp_path, "TopLoss", save)
    cut, *_ = [path for path in checkpoints(tmp_path) if "step=5" in path.stem]
    with ranks.Warned() as messages:
        found = train(tmp_path / "again", "TopLoss", save, resume=cut)
    told = [message for message in messages if "leaves out" in message]
    left_out = ["validation"] * ("validating" in save) + ["on_train_epoch_end"] * (module is NetWithEnds)
    assert told == [] or ", ".join(left_out) in told[0]
    assert len(told) == bool(left_out)
    assert bool(differences(expected, found)) == bool(left_out)
    others = [path for path in checkpoints(tmp_path) if "step=4" in path.stem or "step=6" in path.stem]
    for path in others:
        with ranks.Warned() as messages:
            train(tmp_path / "again", "TopLoss", save, resume=path)
        assert not [message for message in messages if "leaves out" in message]


def make_checkpoint(folder: Path, name: str = "Selective-Backprop", save: str = "epoch end", **settings: Any) -> Path:
    train(folder, name, save, epochs=2, **settings)
    return checkpoints(folder)[0]


def test_a_loader_without_a_place_is_warned_of_once(tmp_path: Path) -> None:
    train(tmp_path, "Selective-Backprop", "within the epoch, plain loader")
    path = next(path for path in checkpoints(tmp_path) if "step=3" in path.stem)
    with ranks.Warned() as messages:
        train(tmp_path / "again", "Selective-Backprop", "within the epoch, plain loader", resume=path)
    ours = [message for message in messages if "DataLoader can't be set to that place" in message]
    assert len(ours) == 1
    assert "after batch 3 of 5" in ours[0]
    assert "StatefulDataLoader" in ours[0]


def test_at_an_epochs_end_no_place_is_needed(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    with ranks.Warned() as messages:
        train(tmp_path / "again", "Selective-Backprop", resume=path)
    assert not [message for message in messages if "DataLoader can't" in message]


def test_another_selector_starts_without_a_history(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    callback = SelectiveBackprop(keep=0.4)
    callback.selector = RandomSubset(0.4)
    with pytest.warns(UserWarning, match="with the selector LossPercentile, but training goes on with RandomSubset"):
        result = train(tmp_path / "again", "", resume=path, callback=callback)
    assert result["counters"]["seen"] == 3 * 37  # goes on counting


def test_a_checkpoint_without_selection(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Net(), DataLoader(Noisy(), 8))
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.warns(UserWarning, match="was made without SelectiveBackprop: weights and optimizer go on from it"):
        result = train(tmp_path / "again", "Selective-Backprop", resume=tmp_path / "plain.ckpt", epochs=2)
    assert result["steps"][0] == 10
    assert result["counters"]["seen"] == 37  # of its own


def test_training_goes_on_without_the_callback(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with running_no_code():
            trainer.fit(Net(), DataLoader(Noisy(), 8), ckpt_path=path)
    assert trainer.global_step == 10


def goes_on_with_two(folder: str, path: str) -> Any:
    callback = selection("refill")
    with ranks.Warned() as messages:
        result = train(folder, "", resume=path, world=2, callback=callback)
    ours = [message for message in messages if "The checkpoint was made by" in message]
    return result["counters"], ours, callback.selector.generator.initial_seed()


def test_two_ranks_go_on_from_one(tmp_path: Path) -> None:
    """A rank that is new has counted nothing, has no rows that wait and draws from a stream of its own."""
    path = make_checkpoint(tmp_path, "refill")
    first, second = ranks.run(2, goes_on_with_two, str(tmp_path / "again"), str(path))
    (old, warned, seed), (new, _, other_seed) = first, second
    assert len(warned) == 1
    assert "made by 1 processes, but 2 go on" in warned[0]
    assert old["seen"] - 37 == new["seen"] > 0
    assert seed != other_seed


def resave(folder: str, name: str) -> None:
    train(folder, name, epochs=1, world=2)


def test_one_process_goes_on_from_two(tmp_path: Path) -> None:
    ranks.run(2, resave, str(tmp_path), "refill")
    (path,) = checkpoints(tmp_path)
    with pytest.warns(UserWarning, match="made by 2 processes, but 1 go on from it"):
        result = train(tmp_path / "again", "refill", resume=path)
    assert result["counters"]["seen"] > 37


@pytest.mark.parametrize(("before", "after", "same"), [(True, False, False), (False, True, True)])
def test_ranks_draw_together_or_apart_whatever_the_checkpoint_did(
    tmp_path: Path, before: bool, after: bool, same: bool
) -> None:
    streams = ranks.run(2, switch_across_ranks, str(tmp_path), before, after)
    assert torch.equal(*streams) == same


def switch_across_ranks(folder: str, before: bool, after: bool) -> Any:
    def callback(across: bool) -> ExampleSelection:
        return ExampleSelection(LossPercentile(0.5), across_ranks=across)

    train(folder, "", world=2, epochs=1, callback=callback(before))
    torch.distributed.barrier()
    going_on = callback(after)
    train(folder + "/again", "", world=2, epochs=2, callback=going_on, resume=checkpoints(folder)[0])
    return going_on.selector.generator.get_state()


def test_selectors_within_another_are_told_apart(tmp_path: Path) -> None:
    train(tmp_path, "", epochs=2, callback=ExampleSelection(Wrapper(TopLoss(0.4))))
    path, *_ = checkpoints(tmp_path)
    callback = ExampleSelection(Wrapper(LossPercentile(0.4)))
    with pytest.warns(UserWarning, match=r"selector Wrapper\(TopLoss\), but .* with Wrapper\(LossPercentile\)"):
        train(tmp_path / "again", "", resume=path, callback=callback)


def test_a_selector_without_state_in_the_checkpoint_begins_anew(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "TopLoss")
    result = train(tmp_path / "again", "", resume=path, callback=ExampleSelection(TopLoss(0.5)), epochs=2)
    assert result["steps"][0] == 10
