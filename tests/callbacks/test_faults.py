"""Whatever breaks: the error is the original one, and everything of the user's is as plain training would leave it."""

import errno
import os
import signal
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from litselect.callbacks import ExampleSelection, selection_session
from litselect.scoring import ScoringPass, scoring_pass
from litselect.selectors import TopLoss
from tests.callbacks.kit import Classifier, Notes, clone, differences, loader, random_streams, rows, seed_streams
from tests.callbacks.test_patching import names, traces
from tests.callbacks.twins import SELECT_ALL, ByHand, Net, without

SINCE = 3  # the batch that breaks


INTERRUPT = (SystemExit, KeyboardInterrupt)


class Broken(Exception):
    """What went wrong in the user's code, with an argument that must arrive."""


class Fragile(Net):
    """Breaks in the fourth batch: before or after its forward pass, in its training step or in the scoring pass."""

    where, kind = "", Broken

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        graph = "training" if torch.is_grad_enabled() else "scoring"
        self.fail(f"before {graph}", batch_idx)
        output = super().training_step(batch, batch_idx)
        self.fail(f"after {graph}", batch_idx)
        return output

    def fail(self, where: str, batch_idx: int) -> None:
        if where == self.where and batch_idx == SINCE and self.current_epoch == 0:
            raise self.kind("mine", 7)


class FragileByHand(Fragile, ByHand):
    """The same under manual optimization; there, "after" is within the step: between backward and step."""

    def manual_backward(self, loss: Any, *args: Any, **kwargs: Any) -> None:
        super().manual_backward(loss, *args, **kwargs)
        self.fail("between", 0 if self.trainer.fit_loop.epoch_loop.batch_idx != SINCE else SINCE)


class Saboteur:
    """Raises in one hook, once it is the fourth batch."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        setattr(self, hook, self.sabotage)

    def sabotage(self, trainer: Any, *_: Any, **__: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx >= SINCE:
            raise Broken("mine", 7)


def left_behind(kit: Any, net: Any, *callbacks: Any, data: Any = None, error: Any = Broken, **settings: Any) -> Any:
    """Train until it breaks, answer with the error and with all that is left of everybody's."""
    data = loader(38, 8) if data is None else data
    settings.setdefault("logger", [kit.logger()])
    trainer = kit.trainer(*callbacks, max_epochs=2, **settings)
    seed_streams()
    loggers, before = trainer.loggers, vars(data).copy()
    handler = signal.getsignal(signal.SIGINT)
    caught = None
    try:
        trainer.fit(net, data, loader(8) if isinstance(net, Net) else None)
    except error as raised:
        caught = raised
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it after an interrupt, to shut down in peace
    assert caught is not None
    assert trainer.loggers is loggers
    assert traces(trainer, net) == []
    assert {name: id(value) for name, value in vars(data).items() if name in before} == {
        name: id(value) for name, value in before.items()
    } or data.num_workers
    optimizers, configs = trainer.optimizers, trainer.lr_scheduler_configs
    return caught, {
        "names": {name: sorted(attributes) for name, attributes in names(trainer, net).items()},
        "others": [sorted(vars(other)) for other in [data, data.dataset, *optimizers, *(c.scheduler for c in configs)]],
        "weights": clone(dict(net.state_dict())),
        "gradients": [clone(p.grad) for p in net.parameters()],
        "flags": [*(p.requires_grad for p in net.parameters()), *(part.training for part in net.modules())],
        "optimizers": [clone(optimizer.state_dict()) for optimizer in optimizers],
        "random streams": random_streams(),
        "rows": [(step, without(row)) for step, row in trainer.loggers[0].rows] if loggers else [],
        "metrics": without(trainer.callback_metrics),
        "steps": list(net.steps),
        "mode": (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.overrides._len_torch_function_stack(),
        ),
    }


def assert_clean(kit: Any, module: type, where: str, plainly: str = "", *, error: Any = Broken) -> Any:
    """A fault leaves what it leaves in plain training (where it happens in `plainly`); answers with the error."""
    torch.manual_seed(0)

    def break_(at: str, *ours: Any) -> Any:
        net = kit.make(module)
        net.where = at
        return left_behind(kit, net, *ours, error=error)

    plain = break_(plainly or where)
    for name, make in SELECT_ALL.items():
        if "scoring" in where and name == "unscored":
            continue
        seen = break_(where, make())
        assert differences(plain[1], seen[1]) == [], name
        assert type(seen[0]) is type(plain[0])
        assert getattr(seen[0], "args", ()) == getattr(plain[0], "args", ())
    seen = break_(where, ExampleSelection(TopLoss(keep=0.5)))
    for part in ("names", "others", "flags", "mode"):
        assert differences(plain[1][part], seen[1][part]) == []
    return seen[0]


# ---------------------------------------------------------------------- in the module


@pytest.mark.parametrize("where", ["before training", "after training"])
@pytest.mark.parametrize("module", [Fragile, FragileByHand])
def test_in_the_training_step(solo: Any, module: type, where: str) -> None:
    error = assert_clean(solo, module, where)
    assert getattr(error, "__notes__", []) == []  # it is the user's alone


def test_between_backward_and_step(solo: Any) -> None:
    error = assert_clean(solo, FragileByHand, "between")
    assert error.args == ("mine", 7)


@pytest.mark.parametrize(("module", "where"), [(Fragile, "before"), (Fragile, "after"), (FragileByHand, "before")])
def test_in_the_scoring_pass(solo: Any, module: type, where: str) -> None:
    """As if the step had failed at its very beginning: what the pass had done until then is undone."""
    error = assert_clean(solo, module, f"{where} scoring", "before training")
    if hasattr(error, "__notes__"):  # Python 3.11
        (note,) = error.__notes__
        assert "Raised in the scoring pass" in note
        assert "example_losses" in note


def test_in_a_loss_function_and_in_example_losses(solo: Any) -> None:
    def loss_fn(module: Any, batch: Any) -> Any:
        raise Broken("mine", 7)

    class Own(Classifier):
        def example_losses(self, batch: Any) -> Any:
            return loss_fn(self, batch)

    for net, callback in (
        (solo.make(Classifier), ExampleSelection(TopLoss(keep=0.5), loss_fn=loss_fn)),
        (solo.make(Own), ExampleSelection(TopLoss(keep=0.5))),
    ):
        error, left = left_behind(solo, net, callback)
        assert error.args == ("mine", 7)
        assert left["steps"] == []


@pytest.mark.parametrize("where", ["training", "scoring"])
def test_an_interrupt(solo: Any, where: str) -> None:
    """Ctrl-C; Lightning ends the process in its own way."""
    plainly = "" if where == "training" else "before training"

    class Interrupted(Fragile):
        kind = KeyboardInterrupt

    assert_clean(solo, Interrupted, f"after {where}", plainly, error=INTERRUPT)


def test_what_is_left_shows_a_broken_guard(solo: Any, monkeypatch: Any) -> None:
    """The comparison sees it if the scoring pass does not put things back."""
    leave = scoring_pass.NoTrace.__exit__
    monkeypatch.setattr(
        scoring_pass.NoTrace, "__exit__", lambda self, *error: None if error[0] else leave(self, *error)
    )
    with pytest.raises(AssertionError):
        assert_clean(solo, Fragile, "after scoring", "before training")


def test_what_is_left_shows_a_broken_guard_of_the_loops(solo: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(selection_session.SelectionSession, "close", lambda self: None)
    with pytest.raises(AssertionError):
        assert_clean(solo, Fragile, "after training")


# ---------------------------------------------------------------------- in another callback

HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_validation_batch_end",
)


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("hook", HOOKS)
def test_in_another_callback(solo: Any, hook: str, ours_first: bool) -> None:
    def break_(*ours: Any) -> Any:
        other = solo.callback(Saboteur, hook)
        return left_behind(solo, solo.make(Net), *(*ours, other) if ours_first else (other, *ours))

    error, plain = break_()
    for make in (
        SELECT_ALL.values() if hook in ("on_train_batch_start", "on_before_backward") else [SELECT_ALL["scored"]]
    ):
        seen = break_(make())
        assert seen[0].args == error.args == ("mine", 7)
        assert differences(plain, seen[1]) == []


# ---------------------------------------------------------------------- out of memory


class Hungry(Classifier):
    """Has memory for so many rows at a time: in the scoring pass, or in training."""

    limit, training_limit = 100, 100

    def __init__(self) -> None:
        super().__init__()
        self.tried, self.trained = Notes(), Notes()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        n = len(batch[0])
        (self.trained if torch.is_grad_enabled() else self.tried).append(n)
        if n > (self.training_limit if torch.is_grad_enabled() else self.limit):
            raise torch.OutOfMemoryError(f"CUDA out of memory: {n} rows")
        return super().training_step(batch, batch_idx)


def starve(kit: Any, limit: int, scoring: ScoringPass, batch_size: int = 16, **settings: Any) -> Any:
    """Train with memory for the scores of `limit` rows; answer with the module, the callback and what was said."""
    net, callback = kit.make(Hungry), ExampleSelection(TopLoss(keep=0.5), scoring=scoring)
    net.limit = limit
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kit.fit(net, callback, data=loader(38, batch_size), **settings)
    said = [str(warning.message) for warning in caught if "ran out of memory" in str(warning.message)]
    return net, callback, said


@pytest.mark.parametrize(("limit", "chunk"), [(15, 8), (8, 8), (5, 4), (3, 2), (1, 1)])
def test_out_of_memory_in_the_scoring_pass(solo: Any, limit: int, chunk: int) -> None:
    scoring = ScoringPass()
    net, callback, said = starve(solo, limit, scoring, max_epochs=2)
    assert scoring.chunk == chunk
    assert len(said) == 1
    assert "16 rows and goes on with chunks of 8 or fewer. Pass ScoringPass(chunk=8)" in said[0]
    plenty, unchunked, quiet = starve(solo, 100, ScoringPass(), max_epochs=2)
    assert quiet == []
    assert net.steps == plenty.steps  # the same rows: the scores are equal
    torch.testing.assert_close(net.net.weight, plenty.net.weight)
    for name in ("seen", "scored", "trained", "steps"):
        assert getattr(callback.counters, name) == getattr(unchunked.counters, name)
    assert [n for n in net.tried if n > limit] == [16, 8, 4, 2][
        : (16 // chunk).bit_length() - 1
    ]  # each size fails once


def test_scores_in_chunks_are_the_scores(solo: Any) -> None:
    scores: dict[int, list[torch.Tensor]] = {}

    for limit in (100, 5):
        found = scores[limit] = []
        net = solo.make(Hungry)
        net.limit = limit
        callback = ExampleSelection(TopLoss(keep=0.5))
        watch = solo.callback(Scores, callback, found)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solo.fit(net, callback, watch, data=loader(38, 16))
    assert len(scores[5]) == 3
    for one, other in zip(scores[100], scores[5], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


class Scores:
    """Notes the scores of every batch."""

    def __init__(self, callback: Any, found: list[Any]) -> None:
        super().__init__()
        self.callback, self.found = callback, found

    def on_before_zero_grad(self, *_: Any) -> None:
        scores = self.callback._session.scores
        self.found.append(getattr(scores, "losses", scores).clone())


def test_out_of_memory_is_said_once_with_a_chunk_of_ones_own(solo: Any) -> None:
    scoring = ScoringPass(chunk=12)
    _, _, said = starve(solo, 5, scoring)
    assert scoring.chunk == 3
    assert len(said) == 1
    assert "chunks of 6 or fewer" in said[0]


def test_out_of_memory_with_one_row(solo: Any) -> None:
    net = solo.make(Hungry)
    net.limit = 0
    with pytest.warns(UserWarning, match="ran out of memory with 8 rows"):
        error, left = left_behind(solo, net, ExampleSelection(TopLoss(keep=0.5)), error=torch.OutOfMemoryError)
    assert str(error) == "CUDA out of memory: 1 rows"
    assert left["steps"] == []
    assert net.tried == [8, 4, 2, 1]


def test_out_of_memory_in_the_training_step_is_nobodys_to_swallow(solo: Any) -> None:
    net = solo.make(Hungry)
    net.training_limit = 3
    error, _ = left_behind(solo, net, ExampleSelection(TopLoss(keep=0.5)), error=torch.OutOfMemoryError)
    assert str(error) == "CUDA out of memory: 4 rows"
    assert getattr(error, "__notes__", []) == []
    assert net.trained == [4]  # not tried again


def test_memory_of_the_failed_pass_is_free_before_the_cache_is_emptied(solo: Any, monkeypatch: Any) -> None:
    """No traceback keeps its tensors alive."""
    ballasts: list[Any] = []
    alive: list[int] = []
    halve = ScoringPass._halve_chunk

    def watch(self: Any, n: int) -> None:
        alive.append(sum(ballast() is not None for ballast in ballasts))
        halve(self, n)

    monkeypatch.setattr(ScoringPass, "_halve_chunk", watch)

    class Fat(Hungry):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            ballast = Ballast()
            ballasts.append(weakref.ref(ballast))
            return super().training_step(batch, batch_idx)

    net = solo.make(Fat)
    net.limit = 2
    with pytest.warns(UserWarning, match="ran out of memory"):
        solo.fit(net, ExampleSelection(TopLoss(keep=0.5)), limit_train_batches=1)
    assert alive == [0, 0]
    assert len(ballasts) > 3


class Ballast:
    """What fills the memory."""


# ---------------------------------------------------------------------- the outside world


@pytest.mark.parametrize("when", ["within an epoch", "at its end"])
def test_a_full_disk(solo: Any, when: str, tmp_path: Any, monkeypatch: Any) -> None:
    def save(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", save)
    every = {"every_n_train_steps": SINCE} if when == "within an epoch" else {"every_n_epochs": 1}

    def break_(*ours: Any) -> Any:
        files = solo.pl.callbacks.ModelCheckpoint(tmp_path, **every)
        return left_behind(solo, solo.make(Net), *ours, files, error=OSError, enable_checkpointing=True)

    error, plain = break_()
    for make in SELECT_ALL.values():
        seen = break_(make())
        assert (seen[0].errno, seen[0].strerror) == (error.errno, error.strerror) == (28, "No space left on device")
        assert differences(plain, seen[1]) == []


class Deadly(Dataset):
    """Kills the process that loads its 20th example, as the system does that is short of memory."""

    def __init__(self) -> None:
        self.columns = rows(32)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, i: int) -> Any:
        if i == 20:
            os._exit(3)
        return tuple(column[i] for column in self.columns)


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_worker_that_dies(solo: Any) -> None:
    def break_(*ours: Any) -> Any:
        # One batch at a time: a worker that dies while it hands one over gives another error of torch's.
        data = DataLoader(Deadly(), batch_size=8, num_workers=1, prefetch_factor=1)
        error, left = left_behind(solo, solo.make(Net), *ours, data=data, error=RuntimeError)
        assert "DataLoader worker (pid" in str(error)
        assert "exited unexpectedly" in str(error)
        return left

    plain = break_()
    assert len(plain["steps"]) < 4
    seen = break_(ExampleSelection(TopLoss(keep=0.5), refill=True))
    for part in ("names", "others", "flags", "mode"):
        assert differences(plain[part], seen[part]) == []


def test_a_fit_after_a_fault_goes_on(solo: Any) -> None:
    """The same callback, the same module, another Trainer: nothing of the broken fit is left in the callback either."""
    callback, net = ExampleSelection(TopLoss(keep=0.5)), solo.make(Fragile)
    for where in ("before training", "after training", "before scoring", "after scoring"):
        net.where = where
        left_behind(solo, net, callback)
        net.where = ""
        net.steps.clear()
        trainer = solo.trainer(callback, max_epochs=1)
        trainer.fit(net, loader(38, 8), loader(8))
        assert [len(ids) for ids in net.steps] == [4, 4, 4, 4, 3]
        assert traces(trainer, net) == []
