"""A rater of text: `python -m experiments.rate_text`.

The paper's own kind of evidence, small: trains raters on a mixture of clean and corrupted documentation of the Python
standard library, and language models on what they leave of it, beside other rules. Writes `text.md` and two CSV files.
"""

import logging
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from experiments.cli import command, require_complete
from experiments.files import write_text
from experiments.rating_text.corpus import standard_library
from experiments.rating_text.page import page
from experiments.rating_text.records import losses_of, ratings_of
from experiments.rating_text.trial import run
from experiments.records import Row, write
from experiments.threads import threads


def main(config: DictConfig) -> None:
    """Runs all seeds, and writes the page after each."""
    require_complete(config)
    logging.getLogger("litselect").setLevel(logging.WARNING)
    console, out, overrides = Console(highlight=False, soft_wrap=True), Path(config.out), HydraConfig.get().overrides
    line = " ".join(("python -m experiments.rate_text", *overrides.task))
    ratings: list[Row] = []
    losses: list[Row] = []
    with threads(1, 0), torch.random.fork_rng():
        for seed in config.seeds:
            trial = run(config, standard_library(), seed, console.print)
            ratings += ratings_of(trial)
            losses += losses_of(trial, config.steps)
            write(out / "text_ratings.csv", ratings)
            write(out / "text_losses.csv", losses)
            write_text(out / "text.md", page(config, line, ratings, losses))
    console.print(str(out / "text.md"))


if __name__ == "__main__":
    command("rate_text", main)
