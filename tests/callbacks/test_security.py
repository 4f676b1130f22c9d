"""Nothing that the package loads runs code: proven on hostile files, and on the sources."""

import ast
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from litselect.callbacks import ExampleSelection, SelectiveBackprop
from litselect.selectors import KeepAll, LossPercentile, RandomSubset, TopLoss
from tests.callbacks.kit import Classifier, loader
from tests.callbacks.runs import running_no_code

ROOT = Path(__file__).parents[2]


class Payload:
    """When unpickled, makes a directory: the proof that code ran."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


# ---------------------------------------------------------------------- checkpoints


CALLBACKS = {
    "TopLoss": lambda: ExampleSelection(TopLoss(keep=0.5)),
    "KeepAll": lambda: ExampleSelection(KeepAll()),
    "RandomSubset": lambda: ExampleSelection(RandomSubset(keep=0.5)),
    "LossPercentile": lambda: ExampleSelection(LossPercentile(keep=0.5)),
    "SelectiveBackprop": lambda: SelectiveBackprop(keep=0.5, warmup=0),
    "refill": lambda: SelectiveBackprop(keep=0.3, warmup=0, refill=True, seed=0),
}


def checkpoint_of(kit: Any, callback: Any, path: Path) -> Path:
    trainer = kit.fit(kit.make(Classifier), callback, data=loader(24))
    trainer.save_checkpoint(path)
    return path


class Saves(Classifier):
    """During training there is most to save: random streams, rows that wait."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("name", CALLBACKS)
def test_all_that_is_saved_loads_without_running_code(solo: Any, name: str, tmp_path: Path) -> None:
    callback, path = CALLBACKS[name](), tmp_path / "run.ckpt"
    solo.fit(solo.make(Saves, path), callback, data=loader(24))
    state = torch.load(path, weights_only=True)["callbacks"][callback.state_key]
    assert state["ranks"][0]["counters"]["seen"] == 24
    assert state["ranks"][0]["streams"] is not None
    assert (state["ranks"][0]["queue"]["rows"] > 0) == (name == "refill")
    CALLBACKS[name]().load_state_dict(state)


def resume(kit: Any, path: Path) -> None:
    trainer = kit.trainer(SelectiveBackprop(keep=0.5, warmup=0), max_epochs=2)
    with running_no_code():
        trainer.fit(kit.make(Classifier), loader(24), ckpt_path=path)


# What a hostile file could put in the place of the callback's state, or of a part of it.
PLACES = ("state", "ranks", "counters", "selector", "queue", "streams")


@pytest.mark.parametrize("place", PLACES)
def test_a_payload_in_the_state_is_refused_and_does_not_run(solo: Any, place: str, tmp_path: Path) -> None:
    callback, proof = SelectiveBackprop(keep=0.5, warmup=0), tmp_path / "ran"
    path = checkpoint_of(solo, callback, tmp_path / "run.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["callbacks"][callback.state_key]
    if place == "state":
        checkpoint["callbacks"][callback.state_key] = Payload(proof)
    elif place == "ranks":
        state["ranks"] = Payload(proof)
    else:
        state["ranks"][0][place] = Payload(proof)
    torch.save(checkpoint, path)

    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        resume(solo, path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # the payload is a live one


def test_a_bare_pickle_in_the_place_of_a_checkpoint_does_not_run(kit: Any, tmp_path: Path) -> None:
    proof, path = tmp_path / "ran", tmp_path / "run.ckpt"
    path.write_bytes(pickle.dumps({"callbacks": Payload(proof)}, protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        resume(kit, path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())
    assert proof.exists()


# ---------------------------------------------------------------------- other files


def test_a_pickle_in_the_place_of_decoded_images_does_not_run(tmp_path: Path) -> None:
    cache = pytest.importorskip("experiments.data.decoded_cache").DecodedCache(tmp_path / "cache", [])
    cache.path.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.warns(UserWarning, match="unreadable"):
        assert cache.read() is None
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------- sources


def unsafe_calls(source: str) -> list[str]:
    """What in `source` could run code that a file holds: calls and imports, each as ``line: code``."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [f"{node.lineno}: import {name.name}" for name in names if _unpickles(name.name)]
            case ast.ImportFrom(module=str(module)) if _unpickles(module):
                found.append(f"{node.lineno}: from {module}")
            case ast.Call(func=function):
                name, settings = ast.unparse(function), {k.arg: ast.unparse(k.value) for k in node.keywords}
                if _is_unsafe(name, settings):
                    found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


UNPICKLERS = re.compile(r"^(_?pickle|cPickle|dill|cloudpickle|joblib|marshal|shelve)(\.|$)")
ALWAYS_UNSAFE = re.compile(
    r"^(eval|exec|compile|__import__|builtins\.(eval|exec|compile))$|\bread_pickle$|\bhub\.(load|load_state_dict_from_url)$"
    r"|\byaml\.(load|load_all|unsafe_load|unsafe_load_all|full_load)$|\bpl_load$|\bload_from_checkpoint$"
)


def _unpickles(module: str) -> bool:
    return bool(UNPICKLERS.match(module))


def _is_unsafe(name: str, settings: dict[str | None, str]) -> bool:
    if name in ("torch.load", "torch.serialization.load"):
        return settings.get("weights_only") != "True"
    if settings.get("allow_pickle", "False") != "False":
        return True  # numpy.load and its like
    if re.search(r"\byaml\.load(_all)?$", name) and "Safe" in settings.get("Loader", ""):
        return False
    return bool(ALWAYS_UNSAFE.search(name)) or settings.get("shell") == "True"


@pytest.mark.parametrize("folder", ["src", "experiments"])
def test_no_source_can_run_what_a_file_holds(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 10
    found = {str(file.relative_to(ROOT)): unsafe_calls(file.read_text(encoding="utf-8")) for file in files}
    assert {file: calls for file, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import joblib",
        "from pickle import loads",
        "from torch import nn; import dill as d",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=safe)",
        "np.load(f, allow_pickle=True)",
        "pd.read_pickle(f)",
        "yaml.load(f)",
        "yaml.load(f, Loader=yaml.Loader)",
        "yaml.unsafe_load(f)",
        "eval(text)",
        "exec(text)",
        "torch.hub.load('a/b', 'c')",
        "subprocess.run(text, shell=True)",
        "Module.load_from_checkpoint(f)",
    ],
)
def test_the_scan_sees(source: str) -> None:
    assert len(unsafe_calls(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(f, weights_only=True)",
        "np.load(f)",
        "np.load(f, allow_pickle=False)",
        "yaml.safe_load(f)",
        "yaml.load(f, Loader=yaml.SafeLoader)",
        "module.eval()",
        "re.compile(text)",
        "torch.compile(module)",
        "safetensors.torch.load_file(f)",
    ],
)
def test_the_scan_does_not_mind(source: str) -> None:
    assert unsafe_calls(source) == []
