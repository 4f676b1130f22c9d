"""The page about the rater of text."""

from omegaconf import DictConfig

from experiments import environment
from experiments.rating_text.found import Found, found_in
from experiments.rating_text.mixture import SOURCES
from experiments.rating_text.networks import LanguageModel, TextRater
from experiments.records import Row
from experiments.report.document import Table
from experiments.report.markdown import to_table
from experiments.report.statistics import Spread

FACTS = ("hardware", "python", "torch", "litselect")
LOSSES = (
    "rows from", "discard", "loss", "beside uniform", "clean rows", "budget for the loss of uniform",
    "preparation, budgets", "beside uniform, preparation counted",
)  # fmt: skip


def page(config: DictConfig, line: str, ratings: list[Row], losses: list[Row]) -> str:
    """Verdict, tables and set-up, from the rows of the CSV files."""
    known, arms = environment.describe(), found_in(losses, config.steps)
    seeds = len({row["seed"] for row in ratings})
    sizes = [sum(p.numel() for p in m.parameters()) for m in _networks(config)]
    meta, data = config.meta, config.data
    paragraphs = (
        "# A rater of text",
        _verdict(arms),
        f"Made by `{line}`, not by hand; all values in [text_ratings.csv](text_ratings.csv) and "
        "[text_losses.csv](text_losses.csv).",
        "## What the rater turns down",
        to_table(_ratings(ratings)),
        "Mean percentile of the ratings and share of the rows in the upper half of the training data: mean and "
        f"standard deviation over {seeds} seeds. Boilerplate is clean text, each row {data.copies} times.",
        "## What that is good for",
        to_table(Table(LOSSES, [_line(arm, arms[0]) for arm in arms])),
        f"Validation loss on clean text (nats per letter) of fresh language models after {config.steps} steps of "
        f"{config.batch_size} rows, mean and standard deviation over {seeds} seeds; differences to uniform training of "
        "the same seed with the half-width of their 95 % confidence interval (Student's t). *Budget for the loss of "
        "uniform*: share of the FLOPs at which the final loss of uniform training is reached, median. *Preparation*: "
        "FLOPs of meta-training, or of training on the held-out rows, and of one score for every candidate, as a "
        "multiple of the budget; it vanishes if the scores serve many trainings. *Preparation counted*: uniform "
        "training gets as many FLOPs as preparation and training together.",
        "## How",
        f"Documentation of the standard library, {data.length} letters a row, apart by module: {data.heldout} clean "
        f"rows are held out for the rater and its rival, {data.validation} validate, the rest trains: {data.clean:.0%} "
        f"of that documentation stays clean. Language models: "
        f"transformers of {sizes[0]:,} parameters, Adam at {config.lr:g}, measured at the moving average of their "
        f"weights (decay {config.average:g}). Rater: convolutions, {sizes[1]:,} parameters; T = {meta.inner_steps}, "
        f"{meta.population} inner models of lifetime {meta.lifetime}, "
        f"{meta.meta_steps} meta-steps at {meta.meta_lr:g}. Then it is frozen, and rates every row once. *Highest*: "
        "the best of an oversampled batch, as in the paper; *drawn*: Gumbel-top-k, `RatedSubset` as it comes. Seeds "
        "decide split, corruption, rater and models. " + ", ".join(f"{name} {known[name]}" for name in FACTS) + ".",
    )
    return "\n\n".join(paragraphs) + "\n"


def _networks(config: DictConfig) -> tuple[LanguageModel, TextRater]:
    return LanguageModel(config.data.length, **config.model), TextRater(config.rater_width)


def _verdict(arms: list[Found]) -> str:
    """The result in three sentences, whichever it is."""
    uniform, *others = arms
    rated = [arm for arm in others if arm.name.startswith("rater")]
    best = min(rated, key=lambda arm: arm.losses.mean)
    rival = min((arm for arm in others if arm.name.startswith("lowest")), key=lambda arm: arm.losses.mean)
    alone = next(arm for arm in others if arm.name.startswith("held-out"))
    gain, counted = best.beside(uniform), best.counted(uniform)
    first = (
        f"At equal training budgets the best of {len(rated)} uses of the rater ({best.title}; chosen by these very "
        f"losses) {_than(gain)} uniform training "
        f"({_pm(best.losses)} against {_pm(uniform.losses)} nats per letter), if its own training is not counted."
    )
    second = (
        f" If it is, the rater {_than(counted)} uniform training, which then has {1 + best.preparation:.1f} budgets "
        f"({_signed(counted)})."
    )
    third = (
        f" The cheap rival, a filter by the loss of a model trained on the held-out rows, {_than(rival.beside(best))} "
        f"the rater ({_pm(rival.losses)}); training on the held-out rows alone gives {_pm(alone.losses)}."
    )
    return f"**{first}{second}{third}**"


def _than(difference: Spread) -> str:
    """Losses are compared: less is better."""
    if not abs(difference.mean) > difference.margin:
        return "is within the noise of"
    return "beats" if difference.mean < 0 else "loses to"


def _line(arm: Found, uniform: Found) -> tuple[str, ...]:
    plain = arm is uniform
    cells = (arm.name, f"{arm.discard:g}" if arm.discard else "", _pm(arm.losses))
    beside = "" if plain else _signed(arm.beside(uniform))
    paid = "" if not arm.preparation else _signed(arm.counted(uniform))
    share = "" if plain else arm.share(uniform)
    return (*cells, beside, f"{arm.clean:.0%}", share, f"{arm.preparation:.2g}" if arm.preparation else "", paid)


def _ratings(rows: list[Row]) -> Table:
    lines: list[tuple[str, ...]] = []
    for source in SOURCES:
        own = [row for row in rows if row["source"] == source]
        cells = [Spread.of([100 * float(row[name]) for row in own]) for name in ("percentile", "upper_half")]
        lines.append((source, f"{int(own[0]['rows']):,}", *(f"{c.mean:.0f} ± {c.std:.0f}" for c in cells)))
    return Table(("source", "rows (first seed)", "percentile", "in the upper half, %"), lines)


def _pm(spread: Spread) -> str:
    return f"{spread.mean:.3f} ± {spread.std:.3f}"


def _signed(spread: Spread) -> str:
    return f"{spread.mean:+.3f} ± {spread.margin:.3f}"
