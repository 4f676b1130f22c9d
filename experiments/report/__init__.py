"""From finished runs to tables, plots and pages. Nothing here trains anything."""

from experiments.report.ledger import write_ledger
from experiments.report.outcome import Outcome
from experiments.report.write import write_report

__all__ = ["Outcome", "write_ledger", "write_report"]
