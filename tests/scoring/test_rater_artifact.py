"""A trained rater on disk, and what is done with its ratings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import binom
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from litselect.scoring import ImageRater, LabelledImageRater, RaterArtifact, StatisticsRater, TableRater

IMAGES, LABELS = torch.randn(20, 3, 8, 8), torch.arange(20) % 4
DATA = TensorDataset(IMAGES, LABELS, torch.arange(20))


class Own(nn.Module):
    """A rater of a user's own, with tied weights."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.second(self.first(x.mean((1, 2))).tanh()).sum(1)


def artifact_of(rater: nn.Module, **settings: Any) -> RaterArtifact:
    with torch.no_grad():
        for p in rater.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return RaterArtifact(
        rater, torch.linspace(-1, 1, 101), {"train": "a", "heldout": "b"}, {"meta_lr": 0.1}, **settings
    )


@pytest.mark.parametrize(
    "rater",
    [
        ImageRater(3, 6, mean=[0.1, 0.2, 0.3], std=2.0),
        LabelledImageRater(3, 4, 8, size=6),
        TableRater(20),
        StatisticsRater(5),
    ],
)
def test_what_is_saved_is_loaded(rater: nn.Module, tmp_path: Path) -> None:
    artifact = artifact_of(rater)
    if not artifact.follows_model:
        artifact.scores(DATA)
    artifact.save(tmp_path / "a" / "rater")
    found = RaterArtifact.load(tmp_path / "a" / "rater")
    assert type(found.rater) is type(rater)
    torch.testing.assert_close(found.rater.state_dict(), rater.state_dict(), rtol=0, atol=0)
    assert (found.data, found.settings) == (artifact.data, artifact.settings)
    assert found.quantiles.equal(artifact.quantiles)
    torch.testing.assert_close(found.cached, artifact.cached, rtol=0, atol=0)
    if not artifact.follows_model:
        assert found.rate((IMAGES, LABELS, torch.arange(20))).equal(artifact.scores(DATA))
    assert not found.rater.training
    assert not any(p.requires_grad for p in found.rater.parameters())


def test_a_rater_of_ones_own_is_passed_in(tmp_path: Path) -> None:
    artifact = artifact_of(Own())
    artifact.save(tmp_path)
    with pytest.raises(ValueError, match=r"holds a .*\.Own, which is no rater of this package.*load\(folder, rater="):
        RaterArtifact.load(tmp_path)
    found = RaterArtifact.load(tmp_path, Own())
    assert found.scores(DATA).equal(artifact.scores(DATA))
    for other in (Own(4), TableRater(3)):
        with pytest.raises(ValueError, match=r"must have the structure of the .*Own.*but got a .*Build it"):
            RaterArtifact.load(tmp_path, other)


def test_a_subclass_is_a_rater_of_ones_own(tmp_path: Path) -> None:
    """It could answer otherwise, and nothing in the file would tell."""
    ImageRater2 = type("ImageRater", (ImageRater,), {})
    artifact_of(ImageRater2(3)).save(tmp_path)
    with pytest.raises(ValueError, match=r"no rater of this package"):
        RaterArtifact.load(tmp_path)


def test_fields_of_ones_own_are_passed_in(tmp_path: Path) -> None:
    fields = lambda batch: {"inputs": batch[0].flip(3)}  # noqa: E731
    artifact = artifact_of(ImageRater(3), fields=fields)
    artifact.save(tmp_path)
    with pytest.raises(ValueError, match=r"trained with fields of its own.*load\(folder, fields="):
        RaterArtifact.load(tmp_path)
    assert RaterArtifact.load(tmp_path, fields=fields).scores(DATA).equal(artifact.scores(DATA))


@pytest.mark.parametrize(
    "how", ["nothing", "no weights", "no facts", "json", "list", "format", "keys", "weights", "quantiles", "scores"]
)
def test_what_is_no_artifact_is_told_apart(how: str, tmp_path: Path) -> None:
    artifact = artifact_of(ImageRater(3))
    artifact.scores(DATA)
    artifact.save(tmp_path)
    facts, weights = tmp_path / "rater.json", tmp_path / "rater.safetensors"
    if how == "nothing":
        tmp_path = tmp_path / "elsewhere"
    elif how in {"no weights", "no facts"}:
        (weights if how == "no weights" else facts).unlink()
    elif how in {"json", "list"}:
        facts.write_text("{" if how == "json" else "[]")
    elif how == "format":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "format": 2}))
    elif how == "keys":
        facts.write_text(json.dumps({"format": 1}))
    elif how == "weights":
        weights.write_bytes(b"\x00" * 100)
    elif how == "quantiles":
        save_file({k: v for k, v in load_file(weights).items() if k != "quantiles"}, weights)
    else:
        (tmp_path / "scores.safetensors").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"A rater lies in a folder with .* but .* can't be read as one .*Make one with"
    ):
        RaterArtifact.load(tmp_path)


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    """Weights that are a pickle are refused, whatever is in it."""
    artifact_of(ImageRater(3)).save(tmp_path)
    torch.save({"rater.head.bias": Bomb()}, tmp_path / "rater.safetensors")
    with pytest.raises(ValueError, match="can't be read"):
        RaterArtifact.load(tmp_path)


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("code was run",)


# ---------------------------------------------------------------------- scores


def test_scores_are_computed_once() -> None:
    rater = Own()
    artifact = artifact_of(rater)
    first, calls = artifact.scores(DATA), rater.calls
    assert first.shape == (20,)
    assert artifact.scores(DATA, batch_size=3).equal(first)  # however batched
    assert rater.calls == calls
    artifact.scores(TensorDataset(IMAGES + 1, LABELS, torch.arange(20)))
    assert rater.calls > calls
    assert len(artifact.cached) == 2


def test_scores_of_another_rater_do_not_stay_behind(tmp_path: Path) -> None:
    old, new = artifact_of(Own()), artifact_of(Own())
    old.scores(DATA)
    old.save(tmp_path)
    new.save(tmp_path)
    assert RaterArtifact.load(tmp_path, Own()).scores(DATA).equal(new.scores(DATA))


def test_the_random_stream_stays() -> None:
    before = torch.get_rng_state()
    artifact = artifact_of(Own())
    torch.set_rng_state(before)
    artifact.scores(DATA)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(("candidates", "keep"), [(1, 1), (8, 2), (64, 32), (1000, 1), (1000, 999), (4096, 1024)])
def test_the_probability_is_that_of_the_paper(candidates: int, keep: int) -> None:
    artifact = artifact_of(Own())
    ratings = torch.linspace(-1.2, 1.2, 50)
    p = artifact.percentile(ratings).double().numpy()
    found = artifact.accept_prob(ratings, candidates=candidates, keep=keep)
    expected = torch.from_numpy(binom.cdf(keep - 1, candidates - 1, 1 - p))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert found.diff().min() >= -1e-6


def test_it_emulates_the_best_of_a_batch() -> None:
    ratings = torch.randn(20_000)
    artifact = RaterArtifact(Own(), ratings.sort().values[:: len(ratings) // 1000], {}, {})
    alone = artifact.accept_prob(ratings, candidates=16, keep=4)
    batches = ratings.view(-1, 16)
    best = torch.zeros_like(batches).scatter(1, batches.topk(4).indices, 1.0).flatten()
    assert abs(float(alone.mean()) - 0.25) < 0.005
    for low, high in ((-3, 0), (0, 0.5), (0.5, 1), (1, 3)):
        inside = (ratings > low) & (ratings <= high)
        assert abs(float(alone[inside].mean() - best[inside].mean())) < 0.02


def test_equal_ratings_are_equally_likely() -> None:
    """A rater that has learned nothing turns no more away than it should."""
    artifact = RaterArtifact(Own(), torch.zeros(101), {}, {})
    assert artifact.percentile(torch.zeros(3)).tolist() == [0.5] * 3
    assert abs(float(artifact.accept_prob(torch.zeros(3), candidates=100, keep=50)[0]) - 0.5) < 0.05


def test_what_is_refused() -> None:
    for keep in (0, 5):
        with pytest.raises(ValueError, match=rf"1 <= keep <= candidates, but got keep={keep} of candidates=4"):
            artifact_of(Own()).accept_prob(torch.zeros(1), candidates=4, keep=keep)


def test_a_rater_in_another_memory_format_is_saved(tmp_path: Path) -> None:
    rater = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).to(memory_format=torch.channels_last)
    artifact_of(rater).save(tmp_path)
    saved = load_file(tmp_path / "rater.safetensors")
    assert torch.equal(saved["rater.0.weight"], rater[0].weight)
