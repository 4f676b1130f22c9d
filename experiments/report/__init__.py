"""From finished cells to tables, plots and pages. Nothing here trains anything."""

from experiments.report.outcome import Outcome
from experiments.report.write import write_report

__all__ = ["Outcome", "write_report"]
