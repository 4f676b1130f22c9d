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
