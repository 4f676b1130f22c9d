"""What scoring and the ledger do with every batch leaves tensors where they are, and no host waits for them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litselect.scoring import Ledger, LossCapture, LossObserver, LossWeights, Scores
from litselect.scoring.known_scores import KnownScores
from litselect.scoring.no_trace import NoTrace, TraceMemory
from litselect.scoring.predictions import predictions
from litselect.scoring.rows import count_rows, join, take_rows
from litselect.scoring.tensor_copies import TensorCopies
from tests.host_syncs import DEVICE, Elsewhere, HostSyncs, elsewhere, here

SIZE, N, CLASSES = 40, 6, 3
IDS = torch.tensor([3, 1, 17, 39, 0, 8])


def losses(seed: int = 0) -> Tensor:
    return torch.rand(N, generator=torch.Generator().manual_seed(seed))


def update(ledger: Ledger, ids: Tensor, step: int, place: Callable[[Any], Any]) -> None:
    """All that a batch enters."""
    ledger.see(ids)
    ledger.score(ids)
    ledger.record(ids, place(losses(step)), place(losses(step)), step)
    ledger.predict(ids, place(losses(step)), place(losses(step) > 0.5), step)
    ledger.train(ids[:3])


# ---------------------------------------------------------------------- the ledger


def test_an_update_of_the_ledger() -> None:
    on_cpu = Ledger(SIZE)
    with HostSyncs() as syncs:
        ledger, ids = Ledger(SIZE, device=DEVICE), elsewhere(IDS)
        for step in range(3):
            update(ledger, ids, step, elsewhere)
    assert syncs.found == []
    for step in range(3):
        update(on_cpu, IDS, step, lambda tensor: tensor)
    for name, values in on_cpu.state_dict().items():
        found = getattr(ledger, name)
        assert isinstance(found, Elsewhere)
        assert here(found).equal(values) or values.isnan().any(), name


def test_ledger_that_waits_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "see", lambda self, ids: self.seen[ids].max().item())
    with HostSyncs() as syncs:
        update(Ledger(SIZE, device=DEVICE), elsewhere(IDS), 0, elsewhere)
    assert syncs.operations == ["_local_scalar_dense"]


def test_what_is_known_of_a_batch() -> None:
    """The ranking itself waits, once an epoch: `begin_epoch` says how many losses are known."""
    with HostSyncs() as once:
        ledger, ids = Ledger(SIZE, device=DEVICE), elsewhere(IDS)
        update(ledger, ids, 0, elsewhere)
        known = KnownScores(ledger)
        known.begin_epoch(1)
    assert "_local_scalar_dense" in once.operations
    with HostSyncs() as syncs:
        scores = known.of(ids)
        ranks = known.rank(elsewhere(losses(1)))
    assert syncs.found == []
    assert isinstance(ranks, Elsewhere)
    with HostSyncs():  # what a checkpoint holds is on the CPU
        resumed = KnownScores(Ledger(SIZE))
        resumed.load_state_dict(known.state_dict())
        again = resumed.rank(elsewhere(losses(1)))
    assert isinstance(again, Elsewhere)
    assert here(again).equal(here(ranks))
    assert here(scores["losses"]).equal(losses(0))
    assert isinstance(scores["ages"], Elsewhere)


def test_what_is_known_before_a_batch_is_loaded() -> None:
    """Entries of the epoch's beginning are on the CPU, and so are the ids."""
    with HostSyncs():
        ledger = Ledger(SIZE, device=DEVICE)
        update(ledger, elsewhere(IDS), 0, elsewhere)
        known = KnownScores(ledger, frozen=True)
        known.begin_epoch(1)
    with HostSyncs() as syncs:
        scores = known.of(IDS)
    assert syncs.found == []
    assert scores["losses"].equal(losses(0))


def test_predictions() -> None:
    given = torch.randn(N, CLASSES), torch.randint(CLASSES, (N,))
    with HostSyncs() as syncs:
        found = predictions(Scores(*map(elsewhere, (losses(), *given))))
    expected = predictions(Scores(losses(), *given))
    assert syncs.found == []
    assert found is not None
    assert expected is not None
    assert [part.tolist() for part in here(found)] == [part.tolist() for part in expected]


# ---------------------------------------------------------------------- rows


def test_rows_of_a_batch() -> None:
    batch = {"x": torch.randn(N, 4), "more": [torch.arange(N), 2.0], "scale": torch.tensor(3.0)}
    rows = torch.tensor([1, 4, 5])
    with HostSyncs() as syncs:
        far = elsewhere(batch)
        assert count_rows(far) == N
        taken = take_rows(far, elsewhere(rows))
        joined = join([taken["x"], far["x"]])
    assert syncs.found == []
    assert here(taken)["x"].equal(batch["x"][rows])
    assert here(taken)["more"][0].equal(rows)
    assert here(joined).shape == (9, 4)


def test_rows_of_the_host_wait_for_their_indices() -> None:
    """A copy to the host that does not block hands out memory before it is written."""
    batch, rows = (torch.arange(N), elsewhere(torch.arange(N))), torch.tensor([1, 4])
    with HostSyncs() as syncs:
        taken = take_rows(batch, elsewhere(rows))
    assert syncs.operations == ["copy to the host"]
    assert taken[0].tolist() == here(taken[1]).tolist() == [1, 4]
    with HostSyncs() as syncs:
        take_rows(elsewhere((torch.arange(N),)), rows)
    assert syncs.found == []


# ---------------------------------------------------------------------- losses of a step


class Net(nn.Module):
    """Layers with buffers, and attributes of the kinds that a scoring pass puts back."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = elsewhere(torch.randn(CLASSES)).requires_grad_()
        self.register_buffer("mean", elsewhere(torch.zeros(CLASSES)))
        self.seen, self.last = [0], elsewhere(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        logits = x * self.scale
        self.mean.lerp_(logits.detach().mean(0), 0.1)
        self.last, self.seen[0] = logits.detach().sum(), self.seen[0] + 1
        return logits


def plain(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y)


def combined(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, label_smoothing=0.1) + 0.3 * F.mse_loss(logits, torch.ones_like(logits))


def reduced_by_hand(logits: Tensor, y: Tensor) -> Tensor:
    elements = F.cross_entropy(logits, y, reduction="none")
    return ((1 - (-elements).exp()) * elements).mean()


def a_sum_over_a_count(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="sum") / (y >= 0).sum()


def with_ignored_rows(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y.masked_fill(y == 2, -100))


STEPS = [plain, combined, reduced_by_hand, a_sum_over_a_count, with_ignored_rows]


@pytest.mark.parametrize("loss", STEPS)
@pytest.mark.parametrize("observed", [False, True])
def test_losses_of_a_step(loss: Callable[[Tensor, Tensor], Tensor], observed: bool) -> None:
    def captured(place: Callable[[Any], Any]) -> Tensor | None:
        logits = place(torch.linspace(-1, 2, N * CLASSES).reshape(N, CLASSES)).requires_grad_()
        y = place(torch.tensor([0, 1, 2, 2, 1, 0]))
        if not observed:
            return LossCapture(N).run(lambda: loss(logits, y))
        observer = LossObserver(N)
        observer.watch(lambda: loss(logits, y)).backward()
        return None if observer.scores is None else observer.scores.losses

    with HostSyncs() as syncs:
        found = captured(elsewhere)
    assert syncs.found == []
    expected = captured(lambda tensor: tensor)
    assert expected is not None
    torch.testing.assert_close(here(found), expected)


@pytest.mark.parametrize("loss", STEPS)
def test_weights_on_losses(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with HostSyncs() as syncs, LossWeights(elsewhere(losses())) as mode:
        loss(elsewhere(torch.randn(N, CLASSES)).requires_grad_(), elsewhere(torch.randint(CLASSES, (N,))))
    assert mode.applied
    assert syncs.found == []


def test_a_step_that_waits_would_be_noticed() -> None:
    def waiting(logits: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, y)
        loss.item()
        return loss

    with HostSyncs() as syncs:
        LossCapture(N).run(lambda: waiting(elsewhere(torch.randn(N, CLASSES)), elsewhere(torch.zeros(N).long())))
    assert syncs.operations == ["_local_scalar_dense"]
    assert "in waiting (" in syncs.found[0]


# ---------------------------------------------------------------------- no trace


def test_copies_of_tensors() -> None:
    tensors = [elsewhere(torch.rand(4)), elsewhere(torch.rand(2, 3)), elsewhere(torch.tensor(7))]
    before = [tensor.tolist() for tensor in here(tensors)]
    copies = TensorCopies()
    with HostSyncs() as syncs:
        for _ in range(2):
            copies.save(tensors)
            for tensor in tensors:
                tensor.add_(1)
            copies.restore()
    assert syncs.found == []
    assert [tensor.tolist() for tensor in here(tensors)] == before


def test_a_scoring_pass_leaves_no_trace() -> None:
    memory = TraceMemory()
    with HostSyncs() as syncs:
        net = Net()
        x = elsewhere(torch.randn(N, CLASSES))
        for _ in range(2):
            with torch.no_grad(), NoTrace(net, memory=memory):
                net(x)
    assert syncs.found == []
    assert here(net.mean).tolist() == [0.0] * CLASSES
    assert here(net.last).item() == 0
    assert net.seen == [0]
