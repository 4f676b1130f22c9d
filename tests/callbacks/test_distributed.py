"""Selection on several ranks: gloo processes on the CPU, which run each scenario of this file once."""

import functools
import logging
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import strategies
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from litselect.callbacks import ExampleSelection, SelectiveBackprop, selection_session
from litselect.scoring import ScoringPass
from litselect.selectors import KeepAll, LossPercentile, RandomSubset, Selection, Selector, TopLoss
from tests.callbacks import ranks
from tests.callbacks.kit import clone, differences
from tests.callbacks.runs import ADVICE

WIDTH = 6

# ---------------------------------------------------------------------- what is trained


class Net(pl.LightningModule):
    """Notes the rows of every training step and of every scoring pass."""

    def __init__(self, norm: bool = False, lr: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(WIDTH, 10), nn.BatchNorm1d(10) if norm else nn.Identity(), nn.ReLU(), nn.Linear(10, 3)
        )
        self.lr = lr
        self.steps: Any = Notes()
        self.normalisers: Any = Notes()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, ids = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        if torch.is_grad_enabled():
            self.steps.append(ids.tolist())
            self.normalisers.append(type(self.net[1]).__name__)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def normed() -> Net:
    return Net(norm=True)


class Notes(list[Any]):
    """A list that the scoring pass does not put back."""


def examples(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, WIDTH, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0), torch.arange(n)


def shared_batches(rank: int, world: int, batches: int = 6) -> list[Any]:
    """Batches of unequal size on every rank; those of all ranks put together with ``rank=-1``."""
    generator = torch.Generator().manual_seed(4)
    x, y, ids = examples(400)
    found, start = [], 0
    for batch in range(batches):
        sizes = torch.randint(2, 4 if batch == batches - 1 else 12, (world,), generator=generator).tolist()
        first = start + (0 if rank < 0 else sum(sizes[:rank]))
        last = first + (sum(sizes) if rank < 0 else sizes[rank])
        found.append((x[first:last], y[first:last], ids[first:last]))
        start += sum(sizes)
    return found


def fit(
    *callbacks: Any, module: Callable[[], Any] = Net, loader: Any = None, world: int | None = None, **settings: Any
) -> Any:
    """Train, and answer with all that the tests look at."""
    for package in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(package).setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    net = module()
    world = torch.distributed.get_world_size() if world is None else world
    settings = {"strategy": DDPStrategy() if world > 1 else "auto", "devices": world, "max_epochs": 2} | settings
    trainer = pl.Trainer(
        accelerator=settings.pop("accelerator", "cpu"),
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **settings,
    )
    if loader is None:
        loader = DataLoader(TensorDataset(*examples(45)), batch_size=8, shuffle=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for advice in ADVICE:
            warnings.filterwarnings("ignore", advice)
        trainer.fit(net, loader)
    ours = [str(warning.message) for warning in caught if "Rank" in str(warning.message)]
    counters = callbacks[0].counters if callbacks else None
    return {
        "weights": clone(dict(net.state_dict())),
        "optimizer": clone(trainer.optimizers[0].state_dict()),
        "metrics": {k: v for k, v in clone(trainer.callback_metrics).items() if "select/" not in k},
        "steps": list(net.steps),
        "normalisers": set(net.normalisers),
        "global_step": trainer.global_step,
        "batches": trainer.fit_loop.epoch_loop.total_batch_idx + 1,
        "counters": {} if counters is None else clone(vars(counters)),
        "warnings": ours,
    }


def start() -> None:
    """The process group, as Lightning would make it: scenarios ask for the world before their first Trainer."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")


# ---------------------------------------------------------------------- collectives, counted

COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "barrier", "broadcast",
    "broadcast_object_list", "gather", "gather_object", "reduce", "reduce_scatter", "scatter", "send", "recv",
)  # fmt: skip


def counted(train: Callable[[], Any]) -> Any:
    """What `train` answers, and how often each collective of torch was called from Python (DDP's own are in C++)."""
    calls: Counter[str] = Counter()
    owners = (torch.distributed, torch.distributed.distributed_c10d)
    originals = [(owner, name, getattr(owner, name)) for owner in owners for name in COLLECTIVES]

    def counting(name: str, function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    for owner, name, function in originals:
        setattr(owner, name, counting(name, function))
    try:
        return train() | {"collectives": dict(calls)}
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


# ---------------------------------------------------------------------- selectors made for the test


class Greedy(Selector):
    """Rank 0 wants every row, the others `share` of theirs."""

    probabilistic = True

    def __init__(self, share: float) -> None:
        super().__init__(0.5)
        self.share = share

    def select(self, k: int, *, losses: torch.Tensor) -> Selection:
        count = len(losses) if self.rank == 0 else int(self.share * len(losses))
        return Selection(torch.arange(count))


def poisoned(world: int) -> TensorDataset:
    """Four batches of four a rank, of which three rows of rank 0's second one are broken."""
    x, y, ids = examples(16 * world)
    x[torch.tensor(BROKEN) * world] = torch.nan
    return TensorDataset(x, y, ids)


# ---------------------------------------------------------------------- scenarios

BROKEN = (4, 5, 6)
FIXED: dict[str, Callable[[], ExampleSelection]] = {
    "TopLoss": lambda: ExampleSelection(TopLoss(0.5)),
    "RandomSubset": lambda: ExampleSelection(RandomSubset(0.5)),
    "SelectiveBackprop": lambda: SelectiveBackprop(keep=0.5, warmup=0),
    "TopLoss in train mode": lambda: ExampleSelection(TopLoss(0.5), scoring=ScoringPass("train")),
}
POOLED: dict[str, Callable[[], Selector]] = {
    "TopLoss": lambda: TopLoss(0.4),
    "LossPercentile": lambda: LossPercentile(0.4, history=32),
    "independent draws": lambda: LossPercentile(0.3, history=32, fixed_size=False),
    "RandomSubset": lambda: RandomSubset(0.3),
}


def scenarios() -> Any:
    """Everything that runs on two ranks and on four."""
    start()
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own = functools.partial(DataLoader, shared_batches(rank, world), batch_size=None)
    uneven: dict[str, Any] = {"use_distributed_sampler": False}
    found = {"plain": counted(fit), "plain with norm": counted(lambda: fit(module=normed))}
    for name, make in FIXED.items():
        found[f"fixed {name}"] = counted(lambda make=make: fit(make()))
        found[f"norm {name}"] = counted(lambda make=make: fit(make(), module=normed))
    for name, callback in {
        "KeepAll": ExampleSelection(KeepAll()),
        "TopLoss": ExampleSelection(TopLoss(1.0)),
        "TopLoss in train mode": ExampleSelection(TopLoss(1.0), scoring=ScoringPass("train")),
    }.items():
        found[f"all {name}"] = fit(callback, module=normed)
    found["refill"] = counted(lambda: fit(SelectiveBackprop(keep=0.5, warmup=0, refill=True), max_epochs=4))
    for share in (0.0, 0.3):
        found[f"greedy {share}"] = counted(
            lambda share=share: fit(ExampleSelection(Greedy(share), refill=True), max_epochs=5)
        )
        found[f"greedy {share}, no refill"] = fit(ExampleSelection(Greedy(share)))
    for name, make in POOLED.items():
        callback = ExampleSelection(make(), across_ranks=True)
        found[f"pooled {name}"] = counted(lambda callback=callback: fit(callback, loader=own(), **uneven))
    for name in ("LossPercentile", "RandomSubset"):
        callback = ExampleSelection(POOLED[name](), across_ranks=True, refill=True)
        found[f"pooled refill {name}"] = fit(callback, module=normed, max_epochs=4)
    found["pooled norm"] = fit(ExampleSelection(TopLoss(0.1), across_ranks=True), module=normed, loader=own(), **uneven)
    unequal = DataLoader(TensorDataset(*examples(40 + 20 * rank)), batch_size=8)
    found["unequal lengths"] = fit(ExampleSelection(TopLoss(0.5)), loader=unequal, limit_train_batches=4, **uneven)
    found["unequal lengths, refill"] = fit(
        ExampleSelection(TopLoss(0.5), refill=True), loader=unequal, limit_train_batches=4, **uneven
    )
    broken = poisoned(world)
    found["dropped"] = fit(
        ExampleSelection(TopLoss(0.5), rescore_every=2, warmup=0, nonfinite="drop"),
        module=normed,
        loader=DataLoader(broken, batch_size=4, sampler=DistributedSampler(broken, world, rank, shuffle=False)),
    )
    torch.distributed.barrier()
    return found


@functools.cache
def on_ranks(world: int) -> list[Any]:
    return ranks.run(world, scenarios, timeout=200)


@pytest.fixture(params=[2, 4], ids=["2 ranks", "4 ranks"])
def results(request: pytest.FixtureRequest) -> list[Any]:
    """What every rank saw."""
    return on_ranks(request.param)


def assert_equal_on_all_ranks(results: list[Any], name: str) -> None:
    one, *others = (result[name] for result in results)
    for other in others:
        parameters = [key for key in one["weights"] if "running" not in key]
        for key in parameters:
            assert torch.equal(one["weights"][key], other["weights"][key]), key
        assert one["global_step"] == other["global_step"]
        assert len(one["steps"]) == len(other["steps"])


# ---------------------------------------------------------------------- a fixed number of rows


@pytest.mark.parametrize("norm", ["fixed", "norm"])
@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_number_needs_no_collective(results: list[Any], name: str, norm: str) -> None:
    plain = "plain" if norm == "fixed" else "plain with norm"
    for result in results:
        assert result[f"{norm} {name}"]["collectives"] == result[plain]["collectives"]
        assert result[f"{norm} {name}"]["global_step"] == result[plain]["global_step"]
    assert_equal_on_all_ranks(results, f"{norm} {name}")


@pytest.mark.parametrize("name", ["TopLoss", "RandomSubset"])
def test_k_rows_of_every_batch_the_short_last_one_included(results: list[Any], name: str) -> None:
    """DistributedSampler deals 45 rows out, padding with rows that come twice."""
    each = -(-45 // len(results))
    sizes = [max(1, round(min(8, each - first) / 2)) for first in range(0, each, 8)]
    for result in results:
        assert [len(step) for step in result[f"fixed {name}"]["steps"]] == 2 * sizes


def test_ranks_draw_different_rows(results: list[Any]) -> None:
    """From the same positions, as they get batches of one size."""
    drawn = []
    for result in results:
        plain, chosen = result["plain"]["steps"], result["fixed RandomSubset"]["steps"]
        drawn.append([[batch.index(row) for row in rows] for batch, rows in zip(plain, chosen, strict=True)])
    assert all(drawn[0] != other for other in drawn[1:])


@pytest.mark.parametrize("name", ["KeepAll", "TopLoss", "TopLoss in train mode"])
def test_all_rows_are_plain_training_to_the_bit(results: list[Any], name: str) -> None:
    for result in results:
        plain, found = result["plain with norm"], result[f"all {name}"]
        for key in ("weights", "optimizer", "metrics", "steps"):
            assert differences(plain[key], found[key]) == []


@pytest.mark.parametrize("name", ["unequal lengths", "unequal lengths, refill"])
def test_unequal_data_sets_with_a_limit(results: list[Any], name: str) -> None:
    """Lightning wants equally many batches of every rank; `limit_train_batches` sees to it."""
    assert_equal_on_all_ranks(results, name)
    assert results[0][name]["global_step"] == (8 if name == "unequal lengths" else 4)


# ---------------------------------------------------------------------- refill


def extra(result: Any, name: str) -> dict[str, int]:
    """Collectives that a run has beyond plain training. Those of a Trainer are the same for every kind of run."""
    base, found = result["plain"]["collectives"], result[name]["collectives"]
    return {key: found.get(key, 0) - base.get(key, 0) for key in COLLECTIVES}


@pytest.mark.parametrize("name", ["refill", "greedy 0.0", "greedy 0.3"])
def test_refill_agrees_once_a_batch(results: list[Any], name: str) -> None:
    for result in results:
        assert extra(result, name)["all_reduce"] == result[name]["batches"]
        assert (
            result[name]["batches"]
            == result["plain"]["batches"] * {"refill": 2, "greedy 0.0": 2.5, "greedy 0.3": 2.5}[name]
        )
    assert_equal_on_all_ranks(results, name)


def test_refill_makes_full_batches(results: list[Any]) -> None:
    for result in results:
        assert result["refill"]["global_step"] >= 2
        assert {len(step) for step in result["refill"]["steps"]} == {8}


def test_one_rank_wants_all_and_another_nothing(results: list[Any]) -> None:
    """No step can be made, and no rank waits for ever; the rows that pile up are bounded, with one warning."""
    assert [result["greedy 0.0"]["global_step"] for result in results] == [0] * len(results)
    assert results[0]["greedy 0.0"]["counters"]["trained"] == 0
    if len(results) == 2:  # on four the data is too short
        (warning,) = results[0]["greedy 0.0"]["warnings"]
        assert "Rank 0 has chosen more than 4 training batches" in warning
    assert all(result["greedy 0.0"]["warnings"] == [] for result in results[1:])


def test_the_slowest_rank_sets_the_pace(results: list[Any]) -> None:
    steps = {result["greedy 0.3"]["global_step"] for result in results}
    assert len(steps) == 1
    assert steps.pop() >= 1


def test_without_refill_an_empty_choice_skips_the_step_everywhere(results: list[Any]) -> None:
    assert [result["greedy 0.0, no refill"]["global_step"] for result in results] == [0] * len(results)
    assert_equal_on_all_ranks(results, "greedy 0.3, no refill")


def test_a_batch_with_too_few_rows_left_on_one_rank_is_skipped_by_all(results: list[Any]) -> None:
    """In the first epoch rows are chosen by a scoring pass, in the second before they are loaded."""
    assert_equal_on_all_ranks(results, "dropped")
    for result in results:
        assert [len(step) for step in result["dropped"]["steps"]] == [2] * 6
        assert all(value.isfinite().all() for value in result["dropped"]["weights"].values())
    broken = {row * len(results) for row in BROKEN}
    assert not broken & {i for step in results[0]["dropped"]["steps"] for i in step}


# ---------------------------------------------------------------------- across ranks


@functools.cache
def alone(name: str, world: int) -> Any:
    """One process that gets the batches of all ranks."""
    return fit(ExampleSelection(POOLED[name]()), loader=DataLoader(shared_batches(-1, world), batch_size=None), world=1)


@pytest.mark.parametrize("name", POOLED)
def test_ranks_together_train_as_one_process_does(results: list[Any], name: str) -> None:
    expected = alone(name, len(results))
    found = [result[f"pooled {name}"] for result in results]
    assert_equal_on_all_ranks(results, f"pooled {name}")
    assert {result["global_step"] for result in found} == {expected["global_step"]}
    # A rank without rows trains one of weight 0; all else is the choice of the one process.
    for step, rows in enumerate(expected["steps"]):
        together = [result["steps"][step] for result in found]
        padding = [part for part in together if len(part) == 1 and part[0] not in rows]
        assert sorted(row for part in together for row in part if part not in padding) == rows
    for key, value in expected["weights"].items():
        torch.testing.assert_close(found[0]["weights"][key], value, rtol=1e-4, atol=1e-5)


def test_it_costs_two_collectives_a_batch(results: list[Any]) -> None:
    for result in results:
        found = result["pooled TopLoss"]
        assert extra(result, "pooled TopLoss")["all_gather"] == 2 * found["batches"]
        assert extra(result, "pooled TopLoss")["all_reduce"] == 0


def test_batch_norm_gets_two_rows_on_every_rank(results: list[Any]) -> None:
    for result in results:
        assert all(len(step) >= 2 for step in result["pooled norm"]["steps"])
    assert_equal_on_all_ranks(results, "pooled norm")


@pytest.mark.parametrize("name", ["LossPercentile", "RandomSubset"])
def test_across_ranks_with_refill(results: list[Any], name: str) -> None:
    """Nothing is padded: the queues fill up with chosen rows alone."""
    assert_equal_on_all_ranks(results, f"pooled refill {name}")
    for result in results:
        assert {len(step) for step in result[f"pooled refill {name}"]["steps"]} == {8}
    assert results[0][f"pooled refill {name}"]["global_step"] >= 1


# ---------------------------------------------------------------------- negative controls


def without_agreement() -> Any:
    """Ranks that decide for themselves make unequal numbers of steps: where they meet, they wait for ever or break."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=5))
    selection_session.all_ready = lambda ready, device: ready
    return fit(ExampleSelection(Greedy(0.3), refill=True), max_epochs=5)


def test_without_agreement_ranks_fall_apart() -> None:
    try:
        results = ranks.run(2, without_agreement, timeout=20)
    except AssertionError:  # a hang, or a connection that was closed by the rank that was through
        return
    assert results[0]["global_step"] != results[1]["global_step"]


# ---------------------------------------------------------------------- FSDP2, tensor parallelism


class Sharded(Net):
    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        if mesh.size() > 1 and not hasattr(self, "sharded"):
            fully_shard(self.net, mesh=mesh)
            self.sharded = True


def whole(result: Any) -> Any:
    """The weights, unsharded."""
    weights = result["weights"].items()
    return {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in weights}


def model_parallel() -> Any:
    start()

    def run(callback: Any = None, data: int = 2, **settings: Any) -> Any:
        strategy = strategies.ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=2 // data)
        callbacks = [] if callback is None else [callback]
        result = fit(*callbacks, module=Sharded, strategy=strategy, **settings)
        return {"weights": whole(result), "steps": result["steps"], "global_step": result["global_step"]}

    found = {
        "plain": run(),
        "all": run(ExampleSelection(TopLoss(1.0))),
        "k of N": run(ExampleSelection(TopLoss(0.5))),
        "refill": run(SelectiveBackprop(keep=0.5, warmup=0, refill=True), max_epochs=4),
        "pooled": run(ExampleSelection(LossPercentile(0.5), across_ranks=True)),
        "one network on two ranks": run(ExampleSelection(RandomSubset(0.5)), data=1),
    }
    with pytest.raises(ValueError, match="of 2 ranks only 1 get data of their own"):
        run(ExampleSelection(RandomSubset(0.5), across_ranks=True), data=1)
    torch.distributed.barrier()
    return found


@functools.cache
def on_model_parallel_ranks() -> list[Any]:
    return ranks.run(2, model_parallel, timeout=90)


def test_fsdp2_with_all_rows_is_plain_training() -> None:
    for result in on_model_parallel_ranks():
        assert differences(result["plain"], result["all"]) == []


@pytest.mark.parametrize("name", ["k of N", "refill", "pooled"])
def test_fsdp2_selects(name: str) -> None:
    one, other = (result[name] for result in on_model_parallel_ranks())
    assert one["global_step"] == other["global_step"] >= 2
    assert differences(one["weights"], other["weights"]) == []
    assert differences(one["weights"], on_model_parallel_ranks()[0]["plain"]["weights"]) != []


def test_ranks_that_hold_one_network_choose_the_same_rows() -> None:
    one, other = (result["one network on two ranks"] for result in on_model_parallel_ranks())
    assert one["steps"] == other["steps"]


# ---------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", FIXED)
def test_on_every_gpu(strategy: str, name: str) -> None:
    found = ranks.run(torch.cuda.device_count(), on_gpu, strategy, name, timeout=200)
    assert len({result["global_step"] for result in found}) == 1
    for result in found:
        assert differences(result["plain"], result["all"]) == []


def on_gpu(strategy: str, name: str) -> Any:
    import os

    def run(callback: Any = None) -> Any:
        how = FSDPStrategy() if strategy == "fsdp" else DDPStrategy()
        callbacks = [] if callback is None else [callback]
        devices = int(os.environ.get("WORLD_SIZE", "1"))
        return fit(*callbacks, strategy=how, accelerator="cuda", devices=devices, world=devices)

    result = run(FIXED[name]())
    plain, whole = run(), run(ExampleSelection(TopLoss(1.0)))
    return {"global_step": result["global_step"], "plain": plain["steps"], "all": whole["steps"]}


@pytest.mark.gpu
def test_synchronised_batch_norm() -> None:
    """Which torch trains on GPUs alone; one rank without rows of its own takes part all the same."""
    world = torch.cuda.device_count()
    if world < 2:
        pytest.skip("one GPU: nothing to synchronise")
    for result in ranks.run(world, with_synchronised_norm, timeout=200):
        assert result["normalisers"] == {"SyncBatchNorm"}


def with_synchronised_norm() -> Any:
    start()
    return fit(
        ExampleSelection(TopLoss(0.1), across_ranks=True),
        module=normed,
        sync_batchnorm=True,
        accelerator="cuda",
    )
