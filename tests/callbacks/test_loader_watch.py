"""Loaders that the ledger listens to: of any structure, whatever their samplers send, and after finders' trials."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.scoring import ScoringPass
from litselect.selectors import InfoBatch
from tests.callbacks.kit import Classifier, Notes, loader, rows

N, BATCH = 40, 8
pytestmark = pytest.mark.filterwarnings("ignore:The '\\w+_dataloader' does not have many workers")


def sizes(loader: Any) -> set[int]:
    return {len(batch[0]) for batch in loader}


class Unpacking(Classifier):
    """Takes the one batch out of whatever holds it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        while not isinstance(batch, (list, tuple)) or not isinstance(batch[0], Tensor):
            batch = batch["only"] if isinstance(batch, dict) else batch[0]
        return super().training_step(batch, batch_idx)


# ---------------------------------------------------------------------- structures

NESTS = {
    "list": lambda kit, loader: [loader],
    "dict": lambda kit, loader: {"only": loader},
    "combined": lambda kit, loader: kit.pl.utilities.CombinedLoader({"only": loader}, "max_size_cycle"),
}


@pytest.mark.parametrize("nest", NESTS)
def test_a_nest_with_one_loader_stays_the_users(kit: Any, nest: str) -> None:
    own = loader(N, BATCH, shuffle=True)
    given = NESTS[nest](kit, own)
    net, callback, seen = kit.make(Unpacking), SelectiveBackprop(0.5), Notes()

    class Reading:
        def on_train_epoch_end(self, trainer: Any, *rest: Any) -> None:
            shown = trainer.train_dataloader
            seen.append(sizes(shown["only"] if isinstance(shown, dict) else shown[0]))

    kit.fit(net, callback, kit.callback(Reading), data=given, max_epochs=4)
    assert callback.memory is not None
    assert {len(ids) for ids in net.steps} == {BATCH // 2}  # chosen before they were loaded
    assert seen == [{BATCH}] * 4
    plain = kit.make(Unpacking)
    kit.fit(plain, data=given)
    assert {len(ids) for ids in plain.steps} == {BATCH}


# ---------------------------------------------------------------------- what samplers send


class Whole(Dataset):
    """Fetches a batch by one operation on what the sampler sent, as it sent it."""

    def __init__(self, kind: type | None) -> None:
        self.columns, self.kind = rows(N), kind

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return [column[index] for column in self.columns]

    def __getitems__(self, indices: Any) -> Any:
        assert self.kind is None or type(indices) is self.kind
        return [column[torch.as_tensor(indices)] for column in self.columns]


class Sending(BatchSampler):
    def __init__(self, make: Any) -> None:
        super().__init__(RandomSampler(range(N), generator=torch.Generator().manual_seed(0)), BATCH, drop_last=False)
        self.make = make

    def __iter__(self) -> Any:
        return map(self.make, super().__iter__())


SENT = {
    "tensor": (torch.tensor, Tensor),
    "array": (np.array, np.ndarray),
    "tuple": (tuple, tuple),
    "list": (list, list),
    "iterator": (iter, None),
    "keys": (lambda ids: dict.fromkeys(ids).keys(), list),
}


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize("sent", SENT)
def test_a_data_set_gets_what_its_sampler_sends(solo: Any, sent: str, keep: float) -> None:
    make, kind = SENT[sent]
    data = DataLoader(Whole(kind), batch_sampler=Sending(make), collate_fn=lambda batch: batch)
    net, callback = solo.make(Classifier), SelectiveBackprop(keep)
    solo.fit(net, callback, data=data, max_epochs=4)
    assert callback.memory is not None
    assert {len(ids) for ids in net.steps} == {round(keep * BATCH)}


@pytest.mark.parametrize("make", [iter, list])
def test_what_is_no_id_is_passed_on_whole(solo: Any, make: Any) -> None:
    class Named(Whole):
        def __getitems__(self, keys: Any) -> Any:
            return super().__getitems__([int(key[1:]) for key in keys])

    data = DataLoader(
        Named(None), batch_sampler=Sending(lambda ids: make([f"k{i}" for i in ids])), collate_fn=lambda batch: batch
    )
    net, callback = solo.make(Classifier), SelectiveBackprop(0.5)
    solo.fit(net, callback, data=data, max_epochs=5)
    assert callback.memory is None  # by a pass, then
    assert callback.counters.scored > 0


class Endless:
    """A length that is not told, in the way that Lightning understands as well."""

    def __len__(self) -> int:
        raise NotImplementedError


def test_a_sampler_that_does_not_tell_its_length(solo: Any) -> None:
    class Sampler(Endless, Sending):
        pass

    data = DataLoader(Whole(list), batch_sampler=Sampler(list), collate_fn=lambda batch: batch)
    solo.fit(net := solo.make(Classifier), SelectiveBackprop(0.5), data=data, max_epochs=4)
    assert len(net.steps) == 4 * N // BATCH


@pytest.mark.parametrize("explicit", [False, True])
def test_a_data_set_that_does_not_tell_its_length(solo: Any, explicit: bool) -> None:
    class Data(Endless, Whole):
        pass

    data = DataLoader(Data(list), batch_sampler=Sending(list), collate_fn=lambda batch: batch)
    callback = SelectiveBackprop(0.5, scoring="ledger") if explicit else SelectiveBackprop(0.5)
    net = solo.make(Classifier)
    if explicit:
        with pytest.raises(ValueError, match=r"Data does not tell its length.*ids=lambda"):
            solo.fit(net, callback, data=data, max_epochs=4)
    else:
        solo.fit(net, callback, data=data, max_epochs=4)
        assert callback.memory is None


# ---------------------------------------------------------------------- finders


class Tunable(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.batch_size = BATCH

    def train_dataloader(self) -> Any:
        return loader(N, self.batch_size, shuffle=True)


CALLBACKS = {
    "default": lambda: SelectiveBackprop(0.5),
    "ledger": lambda: SelectiveBackprop(0.5, scoring="ledger"),
    "InfoBatch": lambda: ExampleSelection(InfoBatch(seed=0)),
    "pass": lambda: SelectiveBackprop(0.5, scoring=ScoringPass()),
}


@pytest.mark.parametrize("kind", ["short", "longer than an epoch", "batch size"])
@pytest.mark.parametrize("name", CALLBACKS)
def test_after_a_trial_selection_is_what_it_would_be(solo: Any, name: str, kind: str, tmp_path: Any) -> None:
    finders = solo.pl.callbacks
    if kind == "batch size" and not hasattr(finders, "WeightAveraging"):
        pytest.skip("before Lightning 2.6 this finder leaves the loops within an epoch")
    finder = {
        "short": lambda: finders.LearningRateFinder(num_training_steps=4, update_attr=False),
        "longer than an epoch": lambda: finders.LearningRateFinder(num_training_steps=12, update_attr=False),
        "batch size": lambda: finders.BatchSizeFinder(steps_per_trial=1, init_val=BATCH, max_trials=1),
    }[kind]
    found = []
    for callbacks in ([], [finder()]):
        net, callback = solo.make(Tunable), CALLBACKS[name]()
        trainer = solo.trainer(*callbacks, callback, max_epochs=5, default_root_dir=tmp_path)
        trainer.fit(net)
        assert callback.counters.seen == 5 * N
        found.append((callback.memory is None, callback.counters.scored, [len(ids) for ids in net.steps[-25:]]))
    if name == "InfoBatch":  # which keeps what its losses say
        assert found[0][:2] == found[1][:2]
        assert found[1][2][:5] == [BATCH] * 5
    else:
        assert found[0] == found[1]
