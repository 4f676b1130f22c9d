"""Irreducible losses for `ReducibleLoss`: made once, kept in a file together with what they cost."""

from experiments.irreducible.making import make_table
from experiments.irreducible.table import Table, table_of

__all__ = ["Table", "make_table", "table_of"]
