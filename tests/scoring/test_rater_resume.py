"""A rater's training that is killed goes on as if it had not been."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from litselect.scoring import RaterTrainer
from litselect.scoring.meta_gradients import Adam
from litselect.scoring.meta_training.loader_stream import LoaderStream

CPU = torch.device("cpu")


class Rows(Dataset[Any]):
    """Rows with augmentation from the global stream."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        fixed = torch.randn(4, generator=torch.Generator().manual_seed(i))
        return fixed + 0.1 * torch.randn(4), int(fixed[0] > 0)


class Stream(IterableDataset[Any]):
    """Rows without an index; without end, if `n` is 0."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Any:
        rows, i = Rows(1), 0
        while not self.n or i < self.n:
            yield rows[i % 1000]
            i += 1


class Killed(Exception):
    pass


def fit(
    path: Path | None, kill_at: int | None = None, loaders: Any = None, **settings: Any
) -> tuple[RaterTrainer, dict[str, Tensor]]:
    torch.manual_seed(99 if kill_at is None else 7)  # nothing may depend on the global stream
    generator = torch.Generator().manual_seed(5)
    train, heldout = (loaders or own_generators)(generator)
    torch.manual_seed(1)
    rater = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    defaults: dict[str, Any] = {
        "inner_optimizer": Adam(lr=0.01), "population": 2, "lifetime": 4, "meta_steps": 7, "warmup": 3,
        "checkpoint": path, "checkpoint_every": 4, "require_learning": False, "progress": False,
    }  # fmt: skip
    trainer = RaterTrainer(
        rater,
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2)),
        lambda module, batch: F.cross_entropy(module(batch[0]), batch[1], reduction="none"),
        train,
        heldout,
        **{**defaults, **settings},
    )
    if kill_at is not None:
        step = trainer._meta_step

        def maybe() -> None:
            if len(trainer.history) == kill_at:
                raise Killed
            step()

        trainer._meta_step = maybe  # type: ignore[method-assign]
        with pytest.raises(Killed):
            trainer.fit()
        return trainer, {}
    artifact = trainer.fit()
    return trainer, {**{k: v.clone() for k, v in rater.state_dict().items()}, "quantiles": artifact.quantiles}


def shuffled(generator: torch.Generator) -> Any:
    return DataLoader(Rows(50), 8, shuffle=True), DataLoader(Rows(30), 9, shuffle=True)


def own_generators(generator: torch.Generator) -> Any:
    other = torch.Generator().manual_seed(6)
    train = DataLoader(Rows(50), 8, shuffle=True, generator=generator)
    return train, DataLoader(Rows(30), 9, shuffle=True, generator=other)


def one_generator(generator: torch.Generator) -> Any:
    return tuple(DataLoader(Rows(n), 8, shuffle=True, generator=generator) for n in (50, 30))


def streams(generator: torch.Generator) -> Any:
    return DataLoader(Stream(0), 8), DataLoader(Stream(30), 9)


def with_workers(generator: torch.Generator) -> Any:
    return DataLoader(Rows(50), 8, shuffle=True, num_workers=1), DataLoader(Rows(30), 9, shuffle=True)


class Relabelled(Rows):
    """The same inputs under other labels."""

    def __getitem__(self, i: int) -> Any:
        x, y, *rest = super().__getitem__(i)
        return (x, 1 - y, *rest)


def test_other_data_are_refused(tmp_path: Path) -> None:
    fit(tmp_path / "rater.ckpt", kill_at=5)
    for train in (Relabelled(50), Rows(48)):
        loaders = DataLoader(train, 8, shuffle=True), DataLoader(Rows(30), 9, shuffle=True)
        with pytest.raises(ValueError, match=r"the settings that it began with, but these differ: data="):
            fit(tmp_path / "rater.ckpt", loaders=lambda _, loaders=loaders: loaders)


@cache
def uninterrupted(loaders: Any) -> tuple[RaterTrainer, dict[str, Tensor]]:
    return fit(None, loaders=loaders)


@pytest.fixture(autouse=True)
def short_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litselect.scoring.meta_training.measured._LOOKED_AT", 5)


@pytest.mark.parametrize("kill_at", [4, 6])  # at a checkpoint, and between two
@pytest.mark.parametrize("loaders", [shuffled, own_generators, one_generator, streams, with_workers])
def test_a_killed_run_goes_on_exactly(loaders: Any, kill_at: int, tmp_path: Path) -> None:
    whole, expected = uninterrupted(loaders)
    fit(tmp_path / "folder" / "run.pt", kill_at, loaders)
    resumed, found = fit(tmp_path / "folder" / "run.pt", loaders=loaders)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert resumed.history == whole.history
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["run.pt"]
    assert set(torch.load(tmp_path / "folder" / "run.pt", weights_only=True)) == set(whole.state_dict())


@pytest.mark.parametrize("part", ["meta", "population", "train", "heldout", "streams", "rater", "log"])
def test_every_part_of_the_state_is_needed(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = uninterrupted(own_generators)
    fit(tmp_path / "run.pt", 5)
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    state[part] = fit(None, 0)[0].state_dict()[part]  # that of a run that has not begun
    if part == "log":
        state["log"]["history"] = state["log"]["history"] + [{"outer_loss": 0.0}]
    torch.save(state, tmp_path / "run.pt")
    _, found = fit(tmp_path / "run.pt")
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_longer_run_may_follow_but_no_other(tmp_path: Path) -> None:
    fit(tmp_path / "run.pt", meta_steps=4)
    longer, found = fit(tmp_path / "run.pt", meta_steps=7)
    assert len(longer.history) == 7
    torch.testing.assert_close(found, uninterrupted(own_generators)[1], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"these differ: meta_lr=0.001, now 0.01, estimator='auto', now 'fd'. Put"):
        fit(tmp_path / "run.pt", meta_lr=0.01, estimator="fd")


def batches_of(loader: Any, n: int) -> list[Any]:
    stream = LoaderStream(loader, 0)
    return [stream.next(CPU) for _ in range(n)]


def test_a_loader_that_ends_for_good() -> None:
    rows = [torch.zeros(3, 1), torch.ones(3, 1)]
    assert [float(batch.sum()) for batch in batches_of(rows, 5)] == [0, 3, 0, 3, 0]
    for nothing in ([], iter(rows), DataLoader(TensorDataset(torch.zeros(3)), 4, drop_last=True)):
        with pytest.raises(ValueError, match=r"at least one batch each time.*none was received.*Look at"):
            batches_of(nothing, 3)


def test_epochs_are_told_to_samplers() -> None:
    class Sampler(list[int]):
        epochs: list[int] = []  # noqa: RUF012 - of one instance

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    stream = LoaderStream(DataLoader(Rows(4), 2, sampler=Sampler(range(4))), 0)
    for _ in range(5):
        stream.next(CPU)
    assert Sampler.epochs == [0, 1, 2]


def test_subsets_are_digested_in_their_order() -> None:
    from litselect.scoring.raters.fields import default_fields
    from litselect.scoring.raters.rater_artifact import digest_of, in_order

    data = TensorDataset(torch.arange(12.0)[:, None], torch.arange(12))
    loader = DataLoader(Subset(data, range(10)), 3, shuffle=True, drop_last=True)
    digests = {digest_of(in_order(loader, 1), default_fields) for _ in range(3)}
    digests.add(digest_of(DataLoader(Subset(data, range(10)), 7), default_fields))
    assert len(digests) == 1
    assert digest_of(DataLoader(Subset(data, range(9)), 7), default_fields) not in digests
