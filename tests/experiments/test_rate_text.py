"""`python -m experiments.rate_text`: its data, its arms and its page."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.rating_text import corpus
from experiments.rating_text.corpus import Text, sequences, standard_library
from experiments.rating_text.found import found_in
from experiments.rating_text.mixture import CLEAN, SOURCES, mix
from experiments.rating_text.networks import LanguageModel
from experiments.rating_text.training import Arm, Curve
from experiments.records import Row, read
from tests.experiments.conftest import Command

WORDS = tuple(Text(" ".join(f"{chr(97 + n)}{word}" for word in range(200)), f"x{n} = 'code'\n" * 60) for n in range(26))


def lines(rows: torch.Tensor) -> list[str]:
    return [bytes(row.tolist()).decode("ascii") for row in rows]


def test_documentation_and_code_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.py").write_text('"""Says."""\n\ndef f():\n    """Does."""\n    return "no doc"\n')
    (tmp_path / "none.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text('"""Not Python."""\n1 +\n')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_one.py").write_text('"""A test."""\n')
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    assert standard_library.__wrapped__() == (Text("Says.\n\nDoes.", 'def f():\n    return "no doc"'),)


def test_sequences_cross_no_text() -> None:
    assert lines(sequences(["abcdefg", "hié"], 3)) == ["abc", "def", "hi?"]


def test_sources_are_what_they_are_called_and_splits_are_apart() -> None:
    mixture = mix(WORDS, length=24, clean=0.5, heldout=30, validation=20, copies=5, seed=0)
    rows = dict(zip(SOURCES, (lines(mixture.train[mixture.source == n]) for n in range(len(SOURCES))), strict=True))
    documentation, code = (
        lines(sequences([t.documentation for t in WORDS], 24)),
        lines(sequences([t.code for t in WORDS], 24)),
    )
    assert set(rows["clean"]) | set(rows["boilerplate"]) <= set(documentation)
    assert set(rows["code"]) <= set(code)
    assert not set(rows["words shuffled"]) & set(documentation)
    assert {tuple(sorted(row.split())) for row in rows["words shuffled"]} <= {
        tuple(sorted(d.split())) for d in documentation
    }
    assert {"".join(sorted(row)) for row in rows["letters shuffled"]} <= {"".join(sorted(d)) for d in documentation}
    assert all(rows["boilerplate"].count(row) == 5 for row in rows["boilerplate"])
    heldout, validation, clean = (
        {letter for row in part for letter in row if letter.isalpha()}
        for part in (lines(mixture.heldout), lines(mixture.validation), rows["clean"])
    )  # each module has a letter of its own
    assert (len(mixture.heldout), len(mixture.validation)) == (30, 20)
    assert not heldout & validation
    assert not (heldout | validation) & clean
    again = mix(WORDS, length=24, clean=0.5, heldout=30, validation=20, copies=5, seed=0)
    assert again.train.equal(mixture.train)


def test_language_model_sees_no_future() -> None:
    torch.manual_seed(0)
    model = LanguageModel(8, 16, 1, 2)
    rows = torch.randint(128, (1, 8)).repeat(2, 1)
    rows[1, -1] += 1
    logits: list[Any] = []
    model.head.register_forward_hook(lambda *parts: logits.append(parts[-1]))
    model(rows)
    torch.testing.assert_close(logits[0][0], logits[0][1])  # the last letter is only ever a target


def test_batches_of_an_arm() -> None:
    ratings = torch.arange(32.0)
    best = next(Arm("best", torch.arange(32), ratings, discard=0.5).batches(16, seed=0))
    assert sorted(best.tolist()) == list(range(16, 32))
    uniform = Arm("uniform", torch.arange(10)).batches(4, seed=0)
    epochs = torch.cat([next(uniform) for _ in range(5)]).tolist()
    assert sorted(epochs[:10]) == sorted(epochs[10:]) == list(range(10))


def test_curves_are_interpolated() -> None:
    curve = Curve([0, 10, 20], [4.0, 2.0, 1.0], torch.empty(0))
    assert curve.at(15) == 1.5
    assert curve.first_below(3.0) == 5
    assert math.isinf(curve.first_below(0.5))


def test_preparation_is_paid_by_uniform_steps() -> None:
    def row(arm: str, step: int, loss: float, preparation: float) -> Row:
        return {"seed": "0", "arm": arm, "discard": "0", "step": str(step), "loss": str(loss), "clean": "1",
                "preparation_steps": str(preparation)}  # fmt: skip

    uniform, rated = found_in(
        [
            row("uniform", 0, 4, 0),
            row("uniform", 10, 3, 0),
            row("uniform", 30, 1, 0),
            row("r", 0, 4, 20),
            row("r", 10, 2, 20),
        ],
        budget=10,
    )
    assert rated.beside(uniform).mean == -1
    assert rated.counted(uniform).mean == 1
    assert rated.share(uniform) == "0.50"


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_files(application: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import rate_text

    monkeypatch.setattr(rate_text, "standard_library", lambda: WORDS)
    small = (
        "data.length=16", "data.heldout=40", "data.validation=20", "data.copies=5", "model.width=16", "model.depth=1",
        "meta.meta_steps=2", "meta.lifetime=2", "meta.population=1", "steps=4", "every=2", "guess_steps=2",
        "discards=[0.5]", "seeds=[0,1]", "lr=0.01",
    )  # fmt: skip
    assert application("rate_text", f"out={tmp_path}", *small) == 0
    ratings, losses = read(tmp_path / "text_ratings.csv"), read(tmp_path / "text_losses.csv")
    assert [row["source"] for row in ratings] == 2 * list(SOURCES)
    arms = {row["arm"] for row in losses}
    assert arms == {
        "uniform", "oracle: clean rows", "held-out rows alone", "rater, highest", "rater, drawn",
        "lowest loss of a held-out model",
    }  # fmt: skip
    assert all(
        float(row["clean"]) == 1 for row in losses if row["arm"] in ("oracle: clean rows", "held-out rows alone")
    )
    longest = max(int(row["step"]) for row in losses if row["arm"] == "uniform")
    assert longest >= 4 + max(float(row["preparation_steps"]) for row in losses)
    text = (tmp_path / "text.md").read_text()
    assert text.startswith("# A rater of text\n\n**At equal training budgets")
    assert "nan" not in text
    assert SOURCES[CLEAN] in text
