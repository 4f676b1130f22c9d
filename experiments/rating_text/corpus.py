"""Text that every installation of Python has: the documentation strings of its standard library, and its code."""

import ast
import sysconfig
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

VOCABULARY = 128
_SKIP = {"site-packages", "test", "tests", "idle_test", "__pycache__"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Text:
    """What a module says in its documentation strings, and the rest of it."""

    documentation: str
    code: str


@cache
def standard_library() -> tuple[Text, ...]:
    """All modules that have documentation strings, tests left out, in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[Text] = []
    for path in sorted(root.rglob("*.py")):
        if not _SKIP & set(path.relative_to(root).parts):
            try:
                source = path.read_text(encoding="utf-8")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of escapes in strings
                    tree = ast.parse(source)
            except (SyntaxError, UnicodeDecodeError):  # there are some on purpose
                continue
            if (text := _parts(source, tree)).documentation:
                found.append(text)
    return tuple(found)


def _parts(source: str, tree: ast.Module) -> Text:
    lines, documentation = source.splitlines(), list[str]()
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (words := ast.get_docstring(node)):
            documentation.append(words)
            first, last = node.body[0].lineno, node.body[0].end_lineno or node.body[0].lineno
            lines[first - 1 : last] = [""] * (last - first + 1)
    return Text("\n\n".join(documentation), "\n".join(line for line in lines if line.strip()))


def sequences(texts: list[str], length: int) -> Tensor:
    """Pieces of `length` ASCII characters, ``[N, length]``; each belongs to one text, what is left over is dropped."""
    pieces: list[Tensor] = []
    for text in texts:
        letters = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8)
        count = len(letters) // length
        pieces.append(torch.from_numpy(letters[: count * length].reshape(count, length).astype(np.int64)))
    return torch.cat(pieces)
