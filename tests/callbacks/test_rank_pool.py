"""Two ranks, or four, select as one process does from all their candidates."""

import functools
import random
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from litselect.callbacks import rank_pool
from litselect.scoring import LossWeights
from litselect.selectors import LossPercentile, RandomSubset, Selection, Selector, TopLoss
from tests.callbacks import ranks

WIDTH, SEEDS, BATCHES = 4, 12, 3


class Weighted(Selector):
    """Draws rows with replacement-free probabilities and weighs what it drew."""

    def __init__(self, seed: int) -> None:
        super().__init__(0.5, seed=seed)

    def select(self, k: int, *, losses: torch.Tensor) -> Selection:
        rows = torch.randperm(len(losses), generator=self.generator)[:k]
        return Selection.of(rows, torch.rand(k, generator=self.generator) + 0.1)


SELECTORS = {
    "TopLoss": lambda seed: TopLoss(0.4),
    "LossPercentile": lambda seed: LossPercentile(0.4, history=16, seed=seed),
    "independent draws": lambda seed: LossPercentile(0.15, history=16, fixed_size=False, seed=seed),
    "RandomSubset": lambda seed: RandomSubset(0.3, seed=seed),
    "Weighted": lambda seed: Weighted(seed),
}


def candidates(seed: int, world: int) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """For each batch and rank some examples: unequal numbers, a short last batch, one rank with small losses."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    batches = []
    for batch in range(BATCHES):
        sizes = [draw.randint(1, 3 if batch == BATCHES - 1 else 9) for _ in range(world)]
        easy = draw.randrange(world)
        batches.append(
            [
                (
                    torch.randn(size, WIDTH, generator=generator),
                    torch.randn(size, generator=generator) * (0.0 if rank == easy else 3.0),
                )
                for rank, size in enumerate(sizes)
            ]
        )
    return batches


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(WIDTH, 1)


def losses(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (net(x).squeeze(1) - y) ** 2


def call(selector: Selector, scores: torch.Tensor, minimum: int = 1) -> Selection:
    """As the callback does."""
    k = max(selector.count(len(scores)), min(minimum, len(scores)))
    return selector(losses=scores, k=k) if selector.needs else selector(candidates=len(scores), k=k)


def gradient(net: Any, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None, factor: float) -> torch.Tensor:
    net.zero_grad()
    if weights is None:
        loss = nn.functional.mse_loss(net(x).squeeze(1), y)
    else:
        with LossWeights(weights):
            loss = nn.functional.mse_loss(net(x).squeeze(1), y)
    (loss * factor).backward()
    return torch.cat([p.grad.flatten().clone() for p in net.parameters()])


def select_on_ranks() -> Any:
    """On each rank: its share of every batch, with the gradient that all ranks average."""
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = {}
    for name, make in SELECTORS.items():
        for seed in range(SEEDS):
            selector, minimum, net = make(seed), 1 + seed % 2, network()
            wrapped = DistributedDataParallel(net)
            for i, batch in enumerate(candidates(seed, world)):
                x, y = batch[rank]
                with torch.no_grad():
                    scores = losses(net, x, y)
                share = rank_pool.select_share(lambda s: call(selector, s, minimum), scores, rank, minimum)  # noqa: B023
                if share is None:
                    found[name, seed, i] = None
                    continue
                rows, weights = share.selection.indices, share.selection.weights
                averaged = gradient(wrapped, x[rows], y[rows], weights, share.factor)
                unscaled = gradient(wrapped, x[rows], y[rows], weights, 1.0)
                found[name, seed, i] = rows, weights, share.factor, averaged, unscaled
    torch.distributed.barrier()
    return found


@functools.cache
def shares(world: int) -> Any:
    return ranks.run(world, select_on_ranks)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SELECTORS)
def test_ranks_select_as_one_process(name: str, world: int) -> None:
    empty = unequal = padded = nothing = 0
    for seed in range(SEEDS):
        selector, minimum, net = SELECTORS[name](seed), 1 + seed % 2, network()
        for i, batch in enumerate(candidates(seed, world)):
            x, y = (torch.cat(columns) for columns in zip(*batch, strict=True))
            with torch.no_grad():
                expected = call(selector, losses(net, x, y), minimum)
            found = [share[name, seed, i] for share in shares(world)]
            if not len(expected):
                assert found == [None] * world
                nothing += 1
                continue
            start, trained = 0, []
            for (rows, weights, factor, _, _), (own, _) in zip(found, batch, strict=True):
                assert len(rows) >= min(minimum, len(own))
                real = torch.ones(len(rows), dtype=torch.bool) if weights is None else weights > 0
                if factor == 0:
                    real[:] = False
                    empty += 1
                trained += (rows[real] + start).tolist()
                padded += int((~real).sum())
                start += len(own)
            assert trained == expected.indices.tolist()
            unequal += len({len(rows) for rows, *_ in found}) > 1
            whole = gradient(net, x[expected.indices], y[expected.indices], expected.weights, 1.0)
            for *_, averaged, _ in found:
                torch.testing.assert_close(averaged, whole, rtol=1e-4, atol=1e-5)
    assert empty
    assert unequal
    assert padded
    assert nothing or name != "independent draws" or world == 4


@pytest.mark.parametrize("world", [2, 4])
def test_without_the_factor_the_gradient_would_be_another(world: int) -> None:
    wrong = 0
    for share in shares(world)[0].values():
        if share is not None:
            *_, averaged, unscaled = share
            wrong += not torch.allclose(averaged, unscaled, rtol=1e-3)
    assert wrong > SEEDS


# ---------------------------------------------------------------------- agreement


def agree() -> Any:
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    calls = 0
    original = torch.distributed.all_reduce

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*args, **kwargs)

    torch.distributed.all_reduce = counted
    cpu = torch.device("cpu")
    answers = [
        rank_pool.all_ready(True, cpu),
        rank_pool.all_ready(False, cpu),
        *(rank_pool.all_ready(rank == ready, cpu) for ready in range(world)),
        *(rank_pool.all_ready(rank != late, cpu) for late in range(world)),
    ]
    return answers, calls


def test_all_are_ready_or_none_steps() -> None:
    for answers, calls in ranks.run(2, agree):
        assert answers == [True] + [False] * 5
        assert calls == 6


@pytest.mark.slow
def test_a_group_that_hangs_is_reported() -> None:
    """The test of the tests: where a rank does not come, the failure says where the other waits."""
    with pytest.raises(ranks.Hang, match=r"rank 0:[\s\S]*all_ready"):
        ranks.run(2, never_agree, timeout=12)


def never_agree() -> None:
    torch.distributed.init_process_group("gloo")
    if torch.distributed.get_rank() == 0:
        rank_pool.all_ready(True, torch.device("cpu"))
    else:
        import time

        time.sleep(600)
