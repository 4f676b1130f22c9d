"""How well ratings tell clean rows from corrupted ones: `python -m experiments.rater_auroc root=<folder of images>`.

Trains a rater for each setting and seed, keeps those that are done, and writes a table and a figure into
`docs/datarater`.
"""

from omegaconf import DictConfig

from experiments.cli import command
from experiments.rater_study.auroc_report import write_report
from experiments.rater_study.setting import settings

CORRUPTED = ("labels20", "labels40", "pixels40", "image", "same", "few")


def main(config: DictConfig) -> None:
    """Trains what is missing, all settings of a seed before the next, and reports."""
    wanted = [setting for setting in settings(config) if setting.name.endswith(CORRUPTED)]
    for seed in range(config.seeds):
        for setting in wanted:
            if not config.report_only:
                setting.rater(seed)
    write_report(wanted, config)


if __name__ == "__main__":
    command("rater_auroc", main)
