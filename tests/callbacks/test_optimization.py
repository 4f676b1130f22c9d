"""Accumulation, clipping, closures, manual optimization with one and two optimizers, schedulers."""

from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import Strategy
from torch import nn
from torch.nn import functional as F

from litselect.callbacks import ExampleSelection, quiet
from litselect.scoring import CaptureError, no_trace
from litselect.selectors import TopLoss
from tests.callbacks.kit import WIDTH, Notes, differences, loader
from tests.callbacks.twins import SELECT_ALL, ByHand, Net, assert_identical, halved, nothing, observe, unlike

BATCHES = 5

TRAINERS = {
    "accumulation": {"accumulate_grad_batches": 3},
    "clipping of the norm": {"gradient_clip_val": 0.05},
    "clipping of values": {"gradient_clip_val": 0.005, "gradient_clip_algorithm": "value"},
    "anomaly detection": {"detect_anomaly": True},
    "accumulation and clipping": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05},
}


@pytest.mark.parametrize("name", TRAINERS)
def test_identity(solo: Any, name: str) -> None:
    plain = assert_identical(solo, Net, settings=lambda kit: dict(TRAINERS[name]))
    bare = observe(solo, Net)
    assert (name == "anomaly detection") == (differences(plain["weights"], bare["weights"]) == [])  # it has an effect


def test_accumulation_counts_optimizer_steps(solo: Any) -> None:
    seen = halved(solo, Net, settings=lambda kit: {"accumulate_grad_batches": 2})
    counters = seen["callback"].counters
    assert seen["progress"][0] == counters.steps == 2 * 3  # the last batch of an epoch steps, too
    assert (counters.seen, counters.scored, counters.trained) == (76, 76, 38)
    assert [len(ids) for ids in seen["trained"]] == [4, 4, 4, 4, 3] * 2


class Explodes(Net):
    """A NaN in the backward pass alone."""

    def loss(self, batch: Any) -> torch.Tensor:
        loss = super().loss(batch)
        return loss + 0 * (self.net[0].weight * 0).sqrt().sum() if torch.is_grad_enabled() else loss


def test_anomalies_are_still_found(solo: Any) -> None:
    with (
        pytest.raises(RuntimeError, match=r"SqrtBackward0.*nan"),
        pytest.warns(UserWarning, match="Error detected in Sqrt"),
    ):
        halved(solo, Explodes, settings=lambda kit: {"detect_anomaly": True})


# ---------------------------------------------------------------------- closures


class SecondOrder(Net):
    """LBFGS calls its closure several times a step."""

    def loss(self, batch: Any) -> torch.Tensor:
        self.dtypes.append((torch.is_grad_enabled(), None))
        (self.steps if torch.is_grad_enabled() else self.passes).append(batch[2].tolist())
        return F.cross_entropy(self.net[4](self.net[0](batch[0])), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


class RawClosure(SecondOrder, ByHand):
    """A closure for torch's own optimizer."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = self.loss(batch)
            loss.backward()
            return loss

        optimizer.step(closure)


class SecondOrderByHand(SecondOrder, ByHand):
    """The same by hand: the closure goes backward, and ends the scoring pass."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


@pytest.mark.parametrize("module", [SecondOrder, SecondOrderByHand, RawClosure])
def test_lbfgs(solo: Any, module: type) -> None:
    assert_identical(solo, module)
    seen = halved(solo, module)
    net, counters = seen["net"], seen["callback"].counters
    once = [8, 8, 8, 8, 6]
    assert [len(ids) for ids in net.passes] == [8, 8, 8, *once, *once]  # the first three times more, to check capture
    calls = [ids for i, ids in enumerate(net.steps) if i == 0 or ids != net.steps[i - 1]]
    assert len(net.steps) > 2 * len(calls)
    assert [len(ids) for ids in calls] == [4, 4, 4, 4, 3] * 2  # and all calls of a step see the same rows
    assert (counters.trained, counters.steps) == (
        38,
        0 if module is RawClosure else 10,
    )  # rows a step, however often its closure is called


# ---------------------------------------------------------------------- by hand, one optimizer


class Careless(ByHand):
    """Looks at gradients, and does before its backward what others do after it."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=self.lightning)
        gradient = self.net[0].weight.grad
        self.log("last_gradient", 0.0 if gradient is None else gradient.norm(), on_step=True)
        if batch_idx:
            optimizer.step()  # of the last batch
            self.lr_schedulers().step()
        optimizer.zero_grad(set_to_none=batch_idx % 2 == 0)
        loss = self.loss(batch)
        self.manual_backward(loss)
        for parameter in self.net[0].parameters():
            parameter.grad *= 2  # scales gradients in place

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02, weight_decay=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)]

    lightning = True


class CarelessAndRaw(Careless):
    """With torch's own optimizer."""

    lightning = False


class PlainBackward(ByHand):
    """``loss.backward()`` in place of ``manual_backward``; accumulates two batches by hand."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch) / 2
        loss.backward()
        if batch_idx % 2 == 1 or self.trainer.is_last_batch:
            self.clip_gradients(self.optimizers(), gradient_clip_val=0.05, gradient_clip_algorithm="norm")
            self.optimizers().step()
            self.optimizers().zero_grad()


@pytest.mark.parametrize("module", [ByHand, Careless, CarelessAndRaw, PlainBackward])
def test_manual_identity(solo: Any, module: type) -> None:
    assert_identical(solo, module)
    seen = halved(solo, module)
    assert [len(ids) for ids in seen["trained"]] == [4, 4, 4, 4, 3] * 2


# ---------------------------------------------------------------------- by hand, two optimizers


class Gan:
    """Scored by its discriminator's loss, whose backward is the first: one example's real and fake loss."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = (
            nn.Linear(2, WIDTH),
            nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, 1)),
        )
        self.critic[0].bias.requires_grad_(False)  # frozen for good: toggling must leave it so
        self.steps, self.passes, self.first = Notes(), Notes(), Notes()

    def verdict(self, x: torch.Tensor, real: float) -> torch.Tensor:
        logits = self.critic(x).squeeze(1)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real))

    def note(self, batch: Any) -> Any:
        (self.steps if torch.is_grad_enabled() else self.passes).append(batch[2].tolist())
        return batch[0], torch.randn(len(batch[0]), 2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        real, noise = self.note(batch)
        generator, critic = self.optimizers()
        self.log("generator_gradient", self.size(self.generator), on_step=True)
        self.log("critic_gradient", self.size(self.critic), on_step=True)

        self.toggle_optimizer(critic)
        loss = 0.5 * (self.verdict(real, 1) + self.verdict(self.generator(noise).detach(), 0))
        critic.zero_grad()
        self.manual_backward(loss)
        critic.step()
        self.untoggle_optimizer(critic)

        self.toggle_optimizer(generator)
        fooled = self.verdict(self.generator(noise), 1)
        self.manual_backward(fooled)
        generator.step()
        generator.zero_grad()
        self.untoggle_optimizer(generator)
        self.log_dict({"critic": loss, "generator": fooled}, on_step=True, on_epoch=True)
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def size(self, part: nn.Module) -> float:
        return sum(float(p.grad.norm()) for p in part.parameters() if p.grad is not None)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.verdict(batch[0], 1))

    def configure_optimizers(self) -> Any:
        optimizers = [
            torch.optim.Adam(self.generator.parameters(), lr=0.01),
            torch.optim.RMSprop([p for p in self.critic.parameters() if p.requires_grad], lr=0.01),
        ]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]


class ToggledModel(Gan):
    """With the context manager, several backward calls a step, and every other batch a step of the critic alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        real, noise = self.note(batch)
        generator, critic = self.optimizers()
        with critic.toggle_model():
            critic.zero_grad()
            self.manual_backward(self.verdict(real, 1))
            self.manual_backward(self.verdict(self.generator(noise).detach(), 0))
            critic.step()
        if batch_idx % 2:
            with generator.toggle_model():
                generator.zero_grad()
                self.verdict(self.generator(noise), 1).backward()
                generator.step()


class FrozenByHand(Gan):
    """Freezes by hand, and goes backward twice through one graph."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        real, noise = self.note(batch)
        generator, critic = self.optimizers()
        self.generator.requires_grad_(False)
        loss = self.verdict(real, 1) + self.verdict(self.generator(noise), 0)
        critic.zero_grad()
        self.manual_backward(loss, retain_graph=True)
        self.manual_backward(loss)
        critic.step()
        self.generator.requires_grad_(True)
        generator.zero_grad()
        self.manual_backward(self.verdict(self.generator(noise), 1))
        generator.step()


class GeneratorFirst(Gan):
    """Scored by the generator's loss, which is of noise: selection is at random."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        real, noise = self.note(batch)
        generator, critic = self.optimizers()
        generator.zero_grad()
        self.manual_backward(self.verdict(self.generator(noise), 1))
        generator.step()
        critic.zero_grad()
        self.manual_backward(self.verdict(real, 1) + self.verdict(self.generator(noise).detach(), 0))
        critic.step()


@pytest.mark.parametrize("module", [Gan, ToggledModel, FrozenByHand, GeneratorFirst])
def test_two_optimizers(solo: Any, module: type) -> None:
    plain = assert_identical(solo, module)
    assert plain["flags"].count(False) == 1  # but for the frozen bias
    seen = halved(solo, module)
    assert [len(ids) for ids in seen["trained"]] == [4, 4, 4, 4, 3] * 2
    assert seen["flags"] == plain["flags"]


def test_the_score_is_the_loss_of_the_first_backward(solo: Any) -> None:
    """For each batch the rows of which the critic's loss, half real and half fake, is highest."""

    class Known(Gan):
        def note(self, batch: Any) -> Any:
            """Noise that depends on the example, so that the test can tell the loss."""
            super().note(batch)
            return batch[0], torch.stack([batch[0].sum(1), batch[2].float()], dim=1)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            with torch.no_grad():
                noise = torch.stack([batch[0].sum(1), batch[2].float()], dim=1)
                real = F.softplus(-self.critic(batch[0]).squeeze(1))
                fake = F.softplus(self.critic(self.generator(noise)).squeeze(1))
            k = round(len(real) / 2)
            self.first.append(sorted(batch[2][(real + fake).argsort(descending=True)[:k]].tolist()))

    seen = halved(solo, Known, data=lambda: loader(40, 8))
    assert seen["net"].steps == seen["net"].first
    assert len(seen["net"].steps) == 10


def test_a_loss_without_loss_functions_is_refused_with_the_remedy(solo: Any) -> None:
    class Wasserstein(Gan):
        def verdict(self, x: torch.Tensor, real: float) -> torch.Tensor:
            return (1 - 2 * real) * self.critic(x).mean()

    net = solo.make(Wasserstein)
    with pytest.raises(CaptureError, match="Define `example_losses"):
        solo.trainer(ExampleSelection(TopLoss(keep=0.5))).fit(net, loader(), loader(8))
    assert len(net.steps) == 0


def test_a_gradient_penalty_before_the_first_backward_is_refused_with_the_remedy(kit: Any) -> None:
    """The scoring pass has no graph: the error is torch's own, with a note of where it comes from and what helps."""

    class Penalised(Gan):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            real, _ = self.note(batch)
            x = real.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.critic(x).sum(), x, create_graph=True)
            self.manual_backward(self.verdict(real, 1) + slope.pow(2).mean())

    with pytest.raises(RuntimeError, match="does not require grad") as caught:
        kit.trainer(ExampleSelection(TopLoss(keep=0.5))).fit(kit.make(Penalised), loader(), loader(8))
    assert any(
        "scoring pass" in note and "example_losses" in note
        for note in getattr(caught.value, "__notes__", ["scoring pass example_losses"])
    )

    class Helped(Penalised):
        def example_losses(self, batch: Any) -> torch.Tensor:
            return F.softplus(-self.critic(batch[0]).squeeze(1))

    net = kit.make(Helped)
    kit.trainer(ExampleSelection(TopLoss(keep=0.5))).fit(net, loader(), loader(8))
    assert [len(ids) for ids in net.steps] == [4] * 4


def unguarded(*kinds: type) -> Any:
    """`quiet`, but for the methods of some objects."""
    original = quiet._muted
    return lambda trainer, module: [muted for muted in original(trainer, module) if not isinstance(muted[0], kinds)]


def scaled(kit: Any) -> dict[str, Any]:
    return {"plugins": [kit.pl.plugins.MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))]}


GRADIENTS = (no_trace, "_gradients", lambda module: lambda: None)
STEPS = (quiet, "_muted", unguarded(torch.optim.Optimizer))
SCHEDULERS = (quiet, "_muted", unguarded(torch.optim.lr_scheduler.LRScheduler))
STRATEGY = (quiet, "_muted", unguarded(Strategy))
GUARDS = {
    "gradients": (Careless, nothing, *GRADIENTS, "/callback_metrics"),
    "flags": (Gan, nothing, *GRADIENTS, "/"),
    "steps": (RawClosure, nothing, *STEPS, "/"),
    "schedulers": (Careless, nothing, *SCHEDULERS, "/"),
    "scaler": (Careless, scaled, *STRATEGY, "/No inf checks"),
}


@pytest.mark.parametrize(("module", "settings", "owner", "name", "broken", "where"), GUARDS.values(), ids=GUARDS)
def test_identity_breaks_without_the_guard(
    solo: Any, monkeypatch: Any, module: type, settings: Any, owner: Any, name: str, broken: Any, where: str
) -> None:
    how = {"settings": settings}
    plain = observe(solo, module, **how)
    assert unlike(plain, observe(solo, module, SELECT_ALL["scored"](), **how)) == []
    monkeypatch.setattr(owner, name, broken)
    try:
        found = unlike(plain, observe(solo, module, SELECT_ALL["scored"](), **how))
    except (RuntimeError, AssertionError, UserWarning) as error:
        found = [f"/{error}"]
    assert any(path.startswith(where) for path in found), found


# ---------------------------------------------------------------------- schedulers


class Scheduled(Net):
    kind = ""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        if self.kind == "step":
            schedule = {
                "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=10),
                "interval": "step",
            }
        elif self.kind == "epoch":
            schedule = {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": "epoch"}
        else:
            watched, interval = self.kind.split(" by ")
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
            schedule = {"scheduler": scheduler, "monitor": watched, "interval": interval, "frequency": 1}
            schedule["strict"] = interval == "epoch"
        return {"optimizer": optimizer, "lr_scheduler": schedule}


KINDS = ("step", "epoch", "val_loss by epoch", "loss by step")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric")
def test_schedulers(solo: Any, kind: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(Scheduled, "kind", kind)
    plain = assert_identical(solo, Scheduled)
    seen = halved(solo, Scheduled)
    rates = [[o["param_groups"][0]["lr"] for o in found["optimizers"]] for found in (plain, seen)]
    assert rates[0] == rates[1]  # k of N makes as many steps
    assert rates[0] != [0.1]
