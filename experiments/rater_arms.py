"""What ratings buy at equal FLOPs: `python -m experiments.rater_arms root=<folder of images>`.

Trains every arm with every seed on every setting of `conf/rater_study.yaml`, keeps what is done, and writes a table
into `docs/datarater`.
"""

from omegaconf import DictConfig

from experiments.cli import command
from experiments.errors import UsageError
from experiments.rater_study.arms import ARMS, TWICE
from experiments.rater_study.arms_report import write_report
from experiments.rater_study.setting import Setting, names_in, parts, settings
from experiments.run import run

QUIET = ("logger=none", "unit=flops", "+trainer.limit_val_batches=0")


def main(config: DictConfig) -> None:
    """Runs what is missing, all arms of a seed before the next, and reports."""
    wanted = settings(config)
    arms = list(ARMS) if config.arms == "all" else names_in(config.arms)
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise UsageError(f"arms must be all or some of {', '.join(ARMS)}, received {', '.join(unknown)}")
    for seed in range(config.seeds):
        for setting in wanted:
            for arm in arms:
                if not config.report_only:
                    train(setting, arm, seed)
    write_report(wanted, config)


def train(setting: Setting, arm: str, seed: int) -> None:
    """One run, if it is not done."""
    if (setting.folder / f"{arm}-seed{seed}" / "summary.json").exists():
        return
    request = setting.request(arm, seed, *ARMS[arm], *QUIET)
    if arm.endswith(TWICE):
        request.config.trainer.max_epochs *= 2
    request.out.mkdir(parents=True, exist_ok=True)
    found = run(request, parts(request.config))
    print(f"{setting.name} seed {seed} {arm}: {found['test_accuracy']:.4f}, {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    command("rater_arms", main)
