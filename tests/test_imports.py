"""What an import costs and offers; each import happens in an interpreter of its own."""

import importlib
import importlib.util
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def run(code: str, cwd: Path | None = None) -> Any:
    """Run `code` in a fresh interpreter and answer with what it printed, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=cwd or ROOT, capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def loaded_by(module: str) -> set[str]:
    """Top-level names of the modules that an import of `module` loads."""
    code = f"import {module}, json, sys; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    return set(run(code))


HEAVY = {"torch", "numpy", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "transformers"}


def test_the_package_alone_loads_nothing() -> None:
    code = (
        "import json, sys; before = set(sys.modules); import litselect; print(json.dumps([*set(sys.modules) - before]))"
    )
    assert run(code) == ["litselect"]


def test_selectors_and_scoring_load_no_lightning() -> None:
    found = loaded_by("litselect.selectors, litselect.scoring")
    assert "torch" in found
    assert found & (HEAVY - {"torch", "numpy"}) == set()
    assert "litselect.callbacks" not in found
    assert found & {"jaxtyping", "beartype", "matplotlib", "hydra", "sklearn", "pandas"} == set()


# ---------------------------------------------------------------------- public names

PUBLIC = {
    "litselect.selectors": {
        "DiverseSubset",
        "HideLearned",
        "ImportanceSampling",
        "InfoBatch",
        "KeepAll",
        "KeepUnlearned",
        "LossPercentile",
        "Mixture",
        "NoiseGuard",
        "RandomSubset",
        "RankSampling",
        "RatedSubset",
        "ReducibleLoss",
        "Scheduled",
        "Selection",
        "Selector",
        "ShuffledScores",
        "Stratified",
        "TopLoss",
        "Uncertainty",
    },
    "litselect.scoring": {
        "CaptureError",
        "ImageRater",
        "LabelledImageRater",
        "Ledger",
        "LossCapture",
        "LossObserver",
        "LossWeights",
        "RaterArtifact",
        "RaterTrainer",
        "Scores",
        "ScoringPass",
        "StatisticsRater",
        "TableRater",
    },
    "litselect.callbacks": {
        "Budget",
        "BudgetSchedule",
        "Counters",
        "DataRater",
        "ExampleSelection",
        "Price",
        "Prices",
        "SelectiveBackprop",
        "SkipLearned",
        "TrimmedLoss",
    },
    "litselect.schedules": {"Constant", "Cosine", "Linear", "OneCycle", "Schedule", "Steps"},
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module: str) -> None:
    """Whoever adds or removes a name does it knowingly: here, and in the changelog."""
    found = importlib.import_module(module)
    assert set(found.__all__) == PUBLIC[module]
    assert list(found.__all__) == sorted(found.__all__)
    for name in found.__all__:
        assert inspect.getdoc(getattr(found, name)), f"{name} has no docstring"


def parameters(function: Any) -> dict[str, Any]:
    return {name: p.kind for name, p in inspect.signature(function).parameters.items() if name != "self"}


def test_callbacks_take_keywords_only() -> None:
    from litselect.callbacks import ExampleSelection, SelectiveBackprop
    from litselect.scoring import ScoringPass

    for make, first in ((ExampleSelection, "selector"), (SelectiveBackprop, "keep"), (ScoringPass, "mode")):
        kinds = parameters(make)
        assert next(iter(kinds)) == first
        rest = [kind for name, kind in kinds.items() if name != first]
        assert set(rest) <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    fixed = {"scoring", "loss_fn", "refill", "warmup", "start", "end", "nonfinite", "prog_bar"}
    assert fixed <= parameters(ExampleSelection).keys()


def test_a_selector_is_called_with_keywords() -> None:
    from litselect.selectors import Selector

    kinds = parameters(Selector.__call__)
    assert {"losses", "logits", "targets", "ids", "ratings"} <= kinds.keys()
    assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}


# ---------------------------------------------------------------------- with pytorch_lightning alone, and with both

FIT = """
import importlib.machinery, json, os, sys
HIDDEN = {hidden!r}

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

sys.meta_path = [Without if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
from litselect.callbacks import ExampleSelection, SelectiveBackprop
import importlib

bases = [base for base in ExampleSelection.__mro__ if base.__name__ == "Callback"]
result = {{"bases": [base.__module__.partition(".")[0] for base in bases]}}
result["loaded"] = sorted({{"lightning", "pytorch_lightning"}} & {{name.partition(".")[0] for name in sys.modules}})

def fit(pl):
    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 3)
            self.sizes = []

        def training_step(self, batch, batch_idx):
            x, y = batch
            self.sizes.append(len(x))
            return torch.nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    net = Net()
    data = DataLoader(TensorDataset(torch.randn(32, 4), torch.randint(3, (32,))), batch_size=8)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    # A single callback, not in a list: the Trainer checks its class.
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=SelectiveBackprop(keep=0.5, warmup=1), **quiet)
    trainer.fit(net, data)
    return net.sizes

for name in {packages!r}:
    result[name] = fit(importlib.import_module(name))
print(json.dumps(result))
"""

SIZES = [8] * 4 + [4] * 4  # the scoring pass leaves no trace in `sizes`


def has_lightning() -> bool:
    return importlib.util.find_spec("lightning") is not None


def test_with_pytorch_lightning_alone() -> None:
    found = run(FIT.format(hidden=["lightning"], packages=["pytorch_lightning"]))
    assert found == {"bases": ["pytorch_lightning"], "loaded": ["pytorch_lightning"], "pytorch_lightning": SIZES}


def test_a_folder_named_lightning_is_no_package(tmp_path: Path) -> None:
    """Where only pytorch_lightning is installed, a user's folder `lightning` looks like a namespace package."""
    (tmp_path / "lightning").mkdir()
    code = FIT.format(hidden=[], packages=["pytorch_lightning"])
    # Behind the hidden one, as if `lightning` were not installed: only the working directory offers the name.
    code = code.replace(
        'return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)',
        "return super().find_spec(name, [os.getcwd()] if name == 'lightning' else path, target)",
    )
    found = run(code, cwd=tmp_path)
    assert found["bases"] == ["pytorch_lightning"]
    assert found["pytorch_lightning"] == SIZES


@pytest.mark.skipif(not has_lightning(), reason="lightning is not installed")
def test_with_both() -> None:
    found = run(FIT.format(hidden=[], packages=["pytorch_lightning", "lightning.pytorch"]))
    assert sorted(found["bases"]) == ["lightning", "pytorch_lightning"]
    assert found["pytorch_lightning"] == found["lightning.pytorch"] == SIZES
