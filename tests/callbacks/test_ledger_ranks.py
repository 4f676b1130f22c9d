"""One ledger of several processes."""

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import distributed
from torch.utils.data import DataLoader

from litselect.callbacks import SelectiveBackprop
from litselect.callbacks.merge_ranks import merge_ranks
from litselect.callbacks.rank_tables import gather_tables, pick_tables
from litselect.scoring import Ledger
from tests.callbacks import ranks
from tests.callbacks.kit import differences
from tests.callbacks.runs import ADVICE, Net, Noisy, checkpoints, train

SIZE = 50


def of_rank(rank: int) -> Ledger:
    """What a rank recorded; some examples came to several ranks, some to none."""
    generator = torch.Generator().manual_seed(rank)
    ledger = Ledger(SIZE)
    for step in range(6):
        ids = torch.randperm(SIZE - 5, generator=generator)[:8]
        ledger.see(ids)
        ledger.train(ids[:4])
        ledger.score(ids[4:])
        ledger.record(ids, torch.rand(8, generator=generator), torch.rand(8, generator=generator), 3 * step + rank % 2)
        ledger.predict(ids, torch.rand(8, generator=generator), torch.rand(8, generator=generator) > 0.5, step)
    return ledger


def merge() -> Any:
    distributed.init_process_group("gloo")
    ledger = of_rank(distributed.get_rank())
    merge_ranks(ledger, torch.device("cpu"))
    return ledger.state_dict()


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_merge_as_ledgers_do(world: int) -> None:
    expected = of_rank(0)
    expected.merge([of_rank(rank) for rank in range(1, world)])
    for found in ranks.run(world, merge):
        assert differences(expected.state_dict(), found) == []


def test_one_process_has_nothing_to_merge() -> None:
    ledger = of_rank(0)
    merge_ranks(ledger, torch.device("cpu"))
    assert differences(ledger.state_dict(), of_rank(0).state_dict()) == []


def labels_of(rank: int) -> torch.Tensor:
    """The classes of what a rank met."""
    return torch.where(of_rank(rank).seen > 0, torch.arange(SIZE, dtype=torch.int32) % 3, -1)


def gather(folder: str) -> Any:
    """What a rank finds again in a checkpoint of all."""
    distributed.init_process_group("gloo")
    rank, cpu = distributed.get_rank(), torch.device("cpu")
    own = of_rank(rank)
    own.grow(SIZE + rank)  # of data sets that don't tell their length, ranks have seen different parts
    state = gather_tables(own, torch.nn.functional.pad(labels_of(rank), (0, rank), value=-1), cpu)
    assert differences(of_rank(rank).state_dict(), {name: x[:SIZE] for name, x in own.state_dict().items()}) == []
    if rank == 0:
        torch.save(state, Path(folder) / "state.pt")
    ledger, labels = pick_tables(state, together=False)
    return {**ledger.state_dict(), "label": labels}


@pytest.mark.parametrize("world", [2, 4])
def test_a_checkpoint_holds_what_each_rank_knew(tmp_path: Path, world: int) -> None:
    """And another number of ranks gets what all know together."""
    found = ranks.run(world, gather, str(tmp_path))
    for rank in range(world):
        expected = of_rank(rank)
        expected.grow(SIZE + world - 1)
        label = torch.nn.functional.pad(labels_of(rank), (0, world - 1), value=-1)
        assert differences({**expected.state_dict(), "label": label}, found[rank]) == []
    assert differences(found[0], found[1]) != []
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    ledger, labels = pick_tables(state, together=False)
    everything = of_rank(0)
    everything.merge([of_rank(rank) for rank in range(1, world)])
    everything.grow(SIZE + world - 1)
    assert differences(everything.state_dict(), ledger.state_dict()) == []
    assert labels[:SIZE].tolist() == torch.stack([labels_of(rank) for rank in range(world)]).amax(0).tolist()


def shared(rank: int) -> Ledger:
    """What a rank knows some batches after all were equal, each with examples of its own."""
    ledger = of_rank(0)
    ids = torch.arange(20 * rank, 20 * rank + 3)
    ledger.see(ids)
    ledger.record(ids, torch.ones(3), torch.ones(3), 99)
    return ledger


def rows_saved() -> list[int]:
    distributed.init_process_group("gloo")
    state = gather_tables(shared(distributed.get_rank()), torch.zeros(SIZE, dtype=torch.int32), torch.device("cpu"))
    assert differences(of_rank(0).state_dict(), {name: state["common"][name] for name in of_rank(0).state_dict()}) == []
    return [len(rows["ids"]) for rows in state["ranks"]]


def test_a_checkpoint_holds_only_what_ranks_met_since_they_shared() -> None:
    assert ranks.run(2, rows_saved) == [[3, 3], [3, 3]]


def test_a_ledger_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="no 'common', no 'ranks'"):
        pick_tables(of_rank(0).state_dict(), together=False)


def fit(workers: int) -> Any:
    """Every rank's steps, and what it remembers."""
    import warnings

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(5, verbose=False)
    module, callback = Net(), SelectiveBackprop(keep=0.4, scoring="ledger", floor=0.1)
    with warnings.catch_warnings():
        for advice in ADVICE:
            warnings.filterwarnings("ignore", advice)
        trainer = pl.Trainer(
            max_epochs=4,
            callbacks=[callback],
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(Noisy(), 8, shuffle=True, num_workers=workers))
    assert callback.ledger is not None
    return {"steps": module.steps, "ledger": callback.ledger.state_dict(), "counters": vars(callback.counters)}


@pytest.mark.parametrize("workers", [0, 1])
def test_two_ranks_share_what_they_know(workers: int) -> None:
    found = ranks.run(2, fit, workers, timeout=200)
    assert differences(found[0]["ledger"], found[1]["ledger"]) == []
    n = len(Noisy())
    trained = torch.zeros(n, dtype=torch.int64)
    for result in found:
        for ids in result["steps"]:
            trained += torch.bincount(torch.tensor(ids), minlength=n)
    repeated = 4 * (-n % 2)  # a sampler makes ranks even by repeating some: those count once
    assert 0 <= int((trained - found[0]["ledger"]["trained"]).sum()) <= repeated
    assert found[0]["counters"]["scored"] == 0
    assert len(found[0]["steps"]) == len(found[1]["steps"])


def resumed(folder: str, path: str | None) -> Any:
    where = Path(folder) / ("again" if path else "")
    callback = SelectiveBackprop(keep=0.4, scoring="ledger", floor=0.1)
    return train(where, "", "epoch end", world=2, resume=path, callback=callback)


def test_two_ranks_resume(tmp_path: Path) -> None:
    expected = ranks.run(2, resumed, str(tmp_path), None, timeout=200)
    for path in checkpoints(tmp_path)[:-1]:
        found = ranks.run(2, resumed, str(tmp_path), str(path), timeout=200)
        assert differences(expected, found) == []


def test_who_resumes_a_run_that_was_over_knows_what_all_ranks_did(tmp_path: Path) -> None:
    expected = ranks.run(2, resumed, str(tmp_path), None, timeout=200)
    for found in ranks.run(2, resumed, str(tmp_path), str(checkpoints(tmp_path)[-1]), timeout=200):
        assert differences(expected[0]["ledger"], found["ledger"]) == []
