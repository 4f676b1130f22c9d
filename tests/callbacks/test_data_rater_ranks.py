"""One rater on several ranks."""

from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from litselect.callbacks import DataRater
from litselect.callbacks.live_ratings import LiveRatings
from tests.callbacks import ranks
from tests.callbacks.test_distributed import WIDTH, examples, fit, start

SETTINGS: dict[str, Any] = {"every": 1, "trust_after": 3, "rater_warmup": 1, "rater_lr": 0.01, "keep": 0.5}


class Linear(torch.nn.Module):
    """Rates by the inputs; begins otherwise on each rank."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(torch.distributed.get_rank())
        self.net = torch.nn.Linear(WIDTH, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.net(inputs)


def trained(alone: bool) -> Any:
    """What a rank has at the end of two trainings, with a loader of held-out examples and with a fraction."""
    start()
    losses: list[float] = []
    learn = LiveRatings._learn
    if alone:
        LiveRatings._over_ranks = lambda self, tensors: tensors  # type: ignore[method-assign] - the guard taken out

    def note(self: Any, found: Any) -> None:
        losses.append(float(found.loss))
        learn(self, found)

    LiveRatings._learn = note  # type: ignore[method-assign]
    judges = DataLoader(TensorDataset(*examples(20)), 8, shuffle=True)
    judged, carved = DataRater(rater=Linear(), heldout=judges, **SETTINGS), DataRater(heldout=0.25, **SETTINGS)
    result = fit(judged)
    steps = fit(carved)["steps"]
    excluded = carved.live.excluded
    assert excluded is not None
    return {
        "rater": torch.cat([p.detach().reshape(-1) for p in judged.rater.parameters()]),
        "weights": torch.cat([value.reshape(-1).float() for value in result["weights"].values()]),
        "losses": losses,
        "trust": judged.live.trust.state_dict(),
        "held out": excluded.tolist(),
        "steps": steps,
    }


def test_all_ranks_have_one_rater_that_learns_from_the_rows_of_each() -> None:
    one, other = ranks.run(2, trained, False)
    assert torch.equal(one["rater"], other["rater"])
    assert torch.equal(one["weights"], other["weights"])
    assert one["losses"] != other["losses"]
    assert one["trust"] == other["trust"]
    assert one["held out"] == other["held out"]
    assert len(one["held out"]) == 11
    held = set(one["held out"])  # which make up whole batches in look-ahead, and are in no other
    assert all(set(step) <= held or not set(step) & held for step in one["steps"] + other["steps"])


def test_without_a_mean_over_ranks_raters_fall_apart() -> None:
    one, other = ranks.run(2, trained, True)
    assert not torch.equal(one["rater"], other["rater"])
