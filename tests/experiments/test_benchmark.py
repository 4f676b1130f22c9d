"""The scenarios of `make benchmark-small`: what each sets, and that each arm is one that can be trained."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose

from experiments.arms import plan
from experiments.build import build
from tests.experiments.conftest import CONF

SCENARIOS = {
    "small_clean": {"data.train_examples": 10_000},
    "small_noise": {"data.label_noise": 0.4},
    "small_duplicates": {"data.duplicates": 4},
    "small_imbalance": {"data.imbalance": 0.01, "data.train_examples": None},
    "small_cheap": {"model.width": 4},
    "small_selectors": {"data.train_examples": 10_000},
    "all_clean": {"data.train_examples": None, "model.stride": 2},
    "large_clean": {"data.train_examples": None, "model.stride": 1},
}
pytestmark = pytest.mark.usefixtures("composing")


def common(scenario: str) -> list[str]:
    return [f"experiment=benchmark_{scenario}", "data.root=nowhere", "out=somewhere"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenarios(scenario: str) -> None:
    config: Any = compose("compare", common(scenario))
    cells = plan(config)
    for key, value in SCENARIOS[scenario].items():
        group, name = key.split(".")
        assert config[group][name] == value
    assert {cell.unit for cell in cells} == {"reference"}
    uniform = {cell.epochs for cell in cells if cell.arm == "uniform"}
    assert not config.uniform_budget or len(uniform) >= 5  # equivalent budgets are read off as many
    arms = {cell.arm: cell for cell in cells}
    for cell in arms.values():
        request = cell.request(common(scenario), Path("cells"))
        selection = build(request.config, "selection")
        assert (selection is None) == (request.choices["selection"] == "uniform")
        if request.config.data.candidates is not None:
            law = getattr(selection, "selector", selection)
            keep = request.config.keep if "scheduled" in cell.arm else law.keep  # which begins with all rows
            trained = keep * request.config.data.candidates
            assert trained == pytest.approx(request.config.data.batch_size, abs=0.5)  # full batches, as uniform's


def test_the_share_that_is_withheld_is_that_of_the_wrong_labels() -> None:
    config = compose("compare", [*common("small_noise"), "data.label_noise=0.1"])
    assert sum("selection.selector.drop_top=0.1" in cell.arm for cell in plan(config)) == 2 * 3 * 5


def test_every_scenario_has_its_test() -> None:
    found = {file.stem.removeprefix("benchmark_") for file in (CONF / "experiment").glob("benchmark_*.yaml")}
    assert found == SCENARIOS.keys()
