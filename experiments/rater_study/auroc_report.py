"""The table and the figure of how well ratings find corruption."""

import os
from pathlib import Path

from omegaconf import DictConfig

from experiments import records
from experiments.files import write_text
from experiments.rater_study.auroc_figure import draw
from experiments.rater_study.control import control
from experiments.rater_study.setting import MEANING, Setting
from experiments.rating.making import CURVE
from experiments.report.document import Table
from experiments.report.markdown import to_table
from experiments.report.statistics import Spread

SHOWN = (25, 50, 100, 200, 300)
KEPT = ("meta_step", "auroc", "outer_loss", "agreement", "flops")


def write_report(settings: list[Setting], config: DictConfig) -> None:
    """Writes `auroc.csv`, `auroc.md` and the figure, of what is done."""
    rows = [row for setting in settings for seed in range(config.seeds) for row in _rows(setting, seed)]
    if not rows:
        return
    folder, figure = Path(config.docs), Path(config.pictures) / "auroc.png"
    records.write(folder / "auroc.csv", rows)
    draw(rows, figure)
    write_text(folder / "auroc.md", _page(settings, rows, Path(os.path.relpath(figure, folder)).as_posix()))


def _rows(setting: Setting, seed: int) -> list[records.Row]:
    """The curve of one rater, each row with the names of setting and seed before it."""
    file = setting.folder / f"rater-seed{seed}" / CURVE
    found = records.read(file) if file.exists() and (file.parent / "rater.json").exists() else []
    known = {"setting": setting.name, "seed": str(seed)}
    return [{**known, **{key: row[key] for key in KEPT}} for row in found]


def _page(settings: list[Setting], rows: list[records.Row], figure: str) -> str:
    headers = ("training set", "seeds", *(f"after {step}" for step in SHOWN), "held-out model", "rater, epochs")
    lines = [line for setting in settings if (line := _line(setting, rows)) is not None]
    behind = [line[0] for line in lines if _number(line[-2]) > max(_number(cell) for cell in line[2:-2])]
    paragraphs = (
        "# What ratings find",
        "A model that is simply trained on the held-out rows finds more than the rater does at any of these "
        f"meta-steps, for a fraction of its cost, in {len(behind)} of {len(lines)} settings.",
        "The probability that a clean row is rated higher than a corrupted one (AUROC; 0.5 is chance), over "
        "meta-steps. The rater is never told which rows are corrupted; it sees what lowers the loss on held-out rows.",
        to_table(Table(headers, lines)),
        "Mean and standard deviation over seeds, which decide rater, inner models and order; the corruption stays. "
        "*Held-out model*: the same for minus the losses of a model of the same kind that is trained on the held-out "
        "rows, which costs a quarter of a training. *Rater, epochs*: FLOPs of all its meta-steps as epochs of plain "
        "training on everything.",
        f"![AUROC over meta-steps, a line for each seed]({figure})",
        "Made by `python -m experiments.rater_auroc root=<folder of images>`; all values in [auroc.csv](auroc.csv), "
        "all settings in `experiments/conf/rater_study.yaml`. Digits: 8 x 8 pixels, 100 held out (few: 20). Images: a "
        "fifth of CIFAR-10 as JPEG files, scaled to 16 x 16 pixels, 1000 held out.",
    )
    return "\n\n".join(paragraphs) + "\n"


def _line(setting: Setting, rows: list[records.Row]) -> tuple[str, ...] | None:
    own = [row for row in rows if row["setting"] == setting.name]
    if not own:
        return None
    seeds = sorted({int(row["seed"]) for row in own})
    at = {step: [float(row["auroc"]) for row in own if int(row["meta_step"]) == step] for step in SHOWN}
    last = max(int(row["meta_step"]) for row in own)
    cost = next(int(row["flops"]) for row in own if int(row["meta_step"]) == last)
    controls = [control(setting, seed) for seed in seeds]
    return (
        MEANING.get(setting.name, setting.name),
        str(len(seeds)),
        *(_spread(values) for values in at.values()),
        _spread(controls),
        f"{cost / setting.epoch():.0f}",
    )


def _number(cell: str) -> float:
    return float(cell.partition(" ")[0] or 0)


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    spread = Spread.of(values)
    return f"{spread.mean:.3f} ± {spread.std:.3f}" if spread.count > 1 else f"{spread.mean:.3f}"
