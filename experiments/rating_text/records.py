"""What trials found, as rows of tables."""

from collections.abc import Iterator

import torch

from experiments.rating_text.mixture import CLEAN, SOURCES
from experiments.rating_text.trial import Trial
from experiments.records import Row


def ratings_of(trial: Trial) -> Iterator[Row]:
    """For each source: how many rows it has, their mean percentile, and the share among the upper half."""
    for n, name in enumerate(SOURCES):
        own = trial.percentiles[trial.mixture.source == n]
        kept = (own >= 0.5).float().mean()
        yield {
            "seed": str(trial.seed), "source": name, "rows": str(len(own)), "percentile": f"{own.mean():.4f}",
            "upper_half": f"{kept:.4f}",
        }  # fmt: skip


def losses_of(trial: Trial, budget: int) -> Iterator[Row]:
    """For each arm and each measurement: the loss, what the ratings took, and what was trained within the budget."""
    heldout = torch.full((len(trial.mixture.heldout),), CLEAN)
    sources = torch.cat([trial.mixture.source, heldout])
    for arm, curve in trial.curves:
        within = curve.rows[: budget * (len(curve.rows) // curve.steps[-1])]
        source = sources[within]
        shares = {name: f"{(source == n).sum() / len(within):.4f}" for n, name in enumerate(SOURCES)}
        distinct = len(torch.unique(within)) / len(within)
        for step, loss in zip(curve.steps, curve.losses, strict=True):
            yield {
                "seed": str(trial.seed), "arm": arm.name, "discard": f"{arm.discard:g}", "step": str(step),
                "loss": f"{loss:.5f}", "preparation_steps": f"{arm.preparation / trial.step:.1f}",
                "distinct": f"{distinct:.4f}", **shares,
            }  # fmt: skip
