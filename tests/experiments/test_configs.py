"""Every file in conf/ describes an object that exists, and copies none of its defaults."""

import inspect
from functools import cache
from typing import Any

import pytest
from hydra import compose
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments.build import build
from litselect import selectors
from tests.experiments.conftest import CONF

APART = {"shared", "experiment", "hydra"}  # parts of groups, settings of several groups, groups of Hydra's own
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in APART)
OPTIONS = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
GIVEN = {"model": {"channels": 3, "size": 32, "classes": 10}, "trainer": {"logger": False}}
ROOTS = {"imagefolder": ["data.root=nowhere"]}
WITHOUT_CONFIG = {"RatedSubset"}  # experiments.rating.Rated builds it, once there are ratings
EMPTY = {("selection", "uniform"), ("logger", "none")}
HYDRAS_OWN = {"_target_", "_partial_", "_convert_"}

pytestmark = pytest.mark.usefixtures("composing")


@cache
def composed(group: str, option: str) -> Any:
    return compose("train", [f"{group}={option}", "out=somewhere", *ROOTS.get(option, [])])


def targets(node: Any) -> list[dict[str, Any]]:
    """Every mapping with a `_target_` in a plain config."""
    if not isinstance(node, dict):
        return []
    return [*([node] if "_target_" in node else []), *(found for value in node.values() for found in targets(value))]


def parameters(node: dict[str, Any]) -> dict[str, inspect.Parameter]:
    """What the target of a node takes, presets' keywords that go on to their base included."""
    kind = get_object(node["_target_"])
    found: dict[str, inspect.Parameter] = {}
    for base in reversed(inspect.getmro(kind)) if inspect.isclass(kind) else [kind]:
        found |= inspect.signature(base).parameters if base is kind or "__init__" in vars(base) else {}
    return found


def test_groups_are_those_of_the_design() -> None:
    assert {"data", "model", "selection", "trainer", "optimizer"} <= set(GROUPS)
    by_group = {group: {option for found, option in OPTIONS if found == group} for group in GROUPS}
    assert {"digits", "cifar10", "cifar100", "svhn", "imagefolder"} <= by_group["data"]
    assert {"mlp", "cnn_small", "resnet18", "wide_resnet", "mobilenet_v2", "densenet"} <= by_group["model"]
    assert {"uniform", "random_subset", "selective_backprop"} <= by_group["selection"]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_instantiates(group: str, option: str) -> None:
    made = build(composed(group, option), group, **GIVEN.get(group, {}))
    assert (made is None) == ((group, option) in EMPTY)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_keys_are_in_the_signature_and_repeat_no_default(group: str, option: str) -> None:
    plain = OmegaConf.to_container(composed(group, option)[group], resolve=False)
    nodes = targets(plain)
    assert nodes or (group, option) in EMPTY
    for node in nodes:
        takes = parameters(node)
        for key, value in node.items():
            if key in HYDRAS_OWN:
                continue
            assert key in takes, f"{node['_target_']} has no {key}"
            default = takes[key].default
            assert default is inspect.Parameter.empty or type(value) is not type(default) or value != default, key


def without_config(exported: set[str]) -> set[str]:
    """Selectors that no option of the group `selection` builds."""
    built = {
        node["_target_"].rpartition(".")[2]
        for group, option in OPTIONS
        if group == "selection"
        for node in targets(OmegaConf.to_container(composed(group, option)[group], resolve=False))
    }
    return exported - built


def test_every_selector_has_a_config() -> None:
    exported = {name for name in selectors.__all__ if name not in ("Selection", "Selector")}
    assert without_config(exported) <= WITHOUT_CONFIG


def test_a_selector_without_config_is_noticed() -> None:
    assert without_config({"TopLoss", "Unheard"}) == {"Unheard"}


def test_the_control_differs_from_what_it_controls_in_the_shuffling_alone() -> None:
    control, controlled = (
        build(composed("selection", name), "selection") for name in ("shuffled_scores", "selective_backprop_pass")
    )
    assert repr(control.selector.selector) == repr(controlled.selector)
    phases = [dict(vars(callback.phase)) for callback in (control, controlled)]
    assert phases[0].pop("pace") is not phases[1].pop("pace"), "each counts steps of its own"
    assert phases[0] == phases[1]


def test_the_comparison_of_defaults_sees_a_repeated_one() -> None:
    takes = parameters({"_target_": "litselect.callbacks.SelectiveBackprop"})
    assert takes["refill"].default is False
    assert takes["history"].default == 1024
