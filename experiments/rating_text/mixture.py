"""Clean and corrupted text, and who may see which."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.rating_text.corpus import VOCABULARY, Text, sequences

SOURCES = ("clean", "code", "words shuffled", "letters shuffled", "boilerplate", "random bytes")
CLEAN = SOURCES.index("clean")


@dataclass(frozen=True)
class Mixture:
    """Rows of text, apart by module of the standard library.

    Attributes:
        train: ``[M, L]``, all sources in random order.
        source: ``[M]``, of each row of `train`, an index of `SOURCES`.
        heldout: ``[H, L]`` clean; what judges the rater.
        validation: ``[V, L]`` clean; what the results are measured on.
    """

    train: Tensor
    source: Tensor
    heldout: Tensor
    validation: Tensor


def mix(
    texts: tuple[Text, ...], length: int, clean: float, heldout: int, validation: int, copies: int, seed: int
) -> Mixture:
    """Draws who gets which module, and spoils most of the training text.

    Args:
        texts: modules.
        length: of a row.
        clean: share of the training documentation that stays as it is; half of the rest has its words shuffled, half
            its letters. Each other source has as many rows as one of these halves.
        heldout: rows of it, from as many modules as they take.
        validation: the same.
        copies: how often each row of the boilerplate is repeated.
        seed: decides all.
    """
    random = np.random.default_rng(seed)
    rest = [texts[i] for i in random.permutation(len(texts))]
    judges, referees = (_taken(rest, length, count) for count in (heldout, validation))
    rows = sequences([text.documentation for text in rest], length)
    rows = rows[torch.from_numpy(random.permutation(len(rows)))]
    kept = round(clean * len(rows))
    each = (len(rows) - kept) // 2
    copied = max(1, each // copies)
    code = sequences([text.code for text in rest], length)
    parts = {
        "clean": rows[copied:kept],
        "words shuffled": _changed(rows[kept : kept + each], lambda words: _shuffle_words(words, random)),
        "letters shuffled": _changed(rows[kept + each :], lambda words: _shuffle_letters(words, random)),
        "boilerplate": rows[:copied].repeat(copies, 1),
        "code": code[torch.from_numpy(random.permutation(len(code))[:each])],
        "random bytes": torch.from_numpy(random.integers(0, VOCABULARY, (each, length))),
    }
    train = torch.cat([parts[name] for name in SOURCES])
    source = torch.cat([torch.full((len(parts[name]),), n) for n, name in enumerate(SOURCES)])
    places = torch.from_numpy(random.permutation(len(train)))
    return Mixture(train[places], source[places], judges, referees)


def _taken(texts: list[Text], length: int, count: int) -> Tensor:
    """The first `count` rows of documentation; the modules that they come from are taken out of `texts`."""
    rows = torch.empty(0, length, dtype=torch.int64)
    while len(rows) < count:
        rows = torch.cat([rows, sequences([texts.pop().documentation], length)])
    return rows[:count]


def _changed(rows: Tensor, change: Callable[[list[str]], list[str]]) -> Tensor:
    """Rows whose words, that is what stands between blanks, are replaced; the number of letters stays."""
    found = [" ".join(change(bytes(row.tolist()).decode("ascii").split(" "))) for row in rows]
    return torch.tensor([list(text.encode("ascii")) for text in found])


def _shuffle_words(words: list[str], random: np.random.Generator) -> list[str]:
    return [words[i] for i in random.permutation(len(words))]


def _shuffle_letters(words: list[str], random: np.random.Generator) -> list[str]:
    return ["".join(word[i] for i in random.permutation(len(word))) for word in words]
