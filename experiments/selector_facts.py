"""What a selection callback says about itself."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.irreducible import table_of

CARDS = Path(__file__).parents[1] / "docs" / "selectors"
AUTHORS = re.compile(r"[A-Z][\w-]+(?: et al\.|(?:,| and| &) [A-Z][\w-]+)*,? \(?(?:19|20)\d\d\b")
ADDRESS = re.compile(r"https://[^\s),;]*[\w/]")


@dataclass(frozen=True)
class Facts:
    """What stands in a row of the table beside the measurements.

    Attributes:
        selector: class of the selector, those that it wraps in brackets, linked to its card.
        needs: the score tensors that it can't do without.
        state: what it remembers.
        paper: authors and year, linked.
    """

    selector: str
    needs: str
    state: str
    paper: str

    @classmethod
    def of(cls, selection: Any) -> "Facts":
        """Reads a callback, its selector and their docstrings."""
        selector = selection.selector
        state = _state(type(selector))
        kept = ["the ledger"] if selection.plan.needs_ledger else []
        kept += ["a table, made by a model that is trained beforehand"] if table_of(selection) is not None else []
        state = "; ".join(kept if kept and state.startswith("none") else [state, *kept])
        return cls(_name(selector), ", ".join(sorted(selector.needs)) or "nothing", state, _paper(type(selector)))


def _name(selector: Any) -> str:
    """`[Outer](outer.md)(Inner)`."""
    kind = type(selector)
    card = CARDS / f"{kind.__module__.rpartition('.')[2]}.md"
    name = f"[{kind.__name__}]({card.name})" if card.exists() else kind.__name__
    inner = getattr(selector, "selector", None)
    return name if inner is None else f"{name}({type(inner).__name__})"


def _state(kind: type) -> str:
    """What follows "State:" in the docstring, up to the next two blanks or sentence that begins with "Cost:"."""
    text = " ".join((inspect.getdoc(kind) or "").split())
    found = re.search(r"State: (.*?)\.? Cost:", text)
    return found[1].removesuffix(".") if found else ""


def _paper(kind: type) -> str:
    """The first work that the module's or the class's docstring cites."""
    module = inspect.getmodule(kind)
    text = " ".join(f"{module.__doc__ if module else ''} {inspect.getdoc(kind)}".split())
    cited = AUTHORS.search(text)
    if cited is None:
        return ""
    name = cited[0].replace(" (", ", ")
    address = ADDRESS.search(text, cited.end())
    following = AUTHORS.search(text, cited.end())
    own = address is not None and (following is None or address.start() < following.start())
    return f"[{name}]({address[0]})" if own and address else name
