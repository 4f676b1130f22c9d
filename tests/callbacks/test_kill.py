"""A run that is killed from outside and resumed from its last checkpoint ends as the run that was not."""

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.callbacks import ranks
from tests.callbacks.kit import differences
from tests.callbacks.ranks import Group
from tests.callbacks.runs import train

SAVE = "within the epoch"
ROOT = Path(__file__).parents[2]
KILLED = [
    *("Selective-Backprop", "refill", "independent draws", "across ranks", "RandomSubset", "ImportanceSampling"),
    *("ledger", "stale scores"),
]
SCRIPT = Path(__file__).parent / "scripts" / "train.py"


def run(folder: str, name: str, world: int, pipe: Connection | None = None) -> Any:
    """Train on from the newest checkpoint in `folder`, or from the beginning where there is none."""
    last = Path(folder) / "last.ckpt"
    resume = str(last) if last.exists() else None
    return train(folder, name, SAVE, resume=resume, world=world, progress=pipe, save_last=True, hooks=True)


def run_killed(folder: Path, name: str, world: int, kills: int, seed: int) -> tuple[list[Any], list[int]]:
    """Kill the run at some steps by chance, each time going on from the last checkpoint; answer with its end."""
    chance, killed = random.Random(f"{name} {world} {seed}"), []
    while len(killed) < kills:
        receiver, sender = ranks.pipe()
        group = Group(world, run, str(folder), name, world, sender)
        sender.close()
        wait, newest = chance.randint(1, 5), -1
        try:
            for _ in range(wait):
                newest = receiver.recv()
            time.sleep(chance.random() * 0.03)  # anywhere in a step, a save included
        except EOFError:  # over before it could be killed
            group.results()
            break
        group.kill()
        killed.append(newest)
    return Group(world, run, str(folder), name, world).results(), killed


def check(tmp_path: Path, name: str, world: int, kills: int, seed: int = 0) -> int:
    expected = Group(world, run, str(tmp_path / "whole"), name, world).results()
    found, killed = run_killed(tmp_path / "killed", name, world, kills, seed)
    for one, other in zip(expected, found, strict=True):
        differ = differences(one, other)
        # Where the last kill came after the last step nothing was left to do: training did not start.
        assert [place for place in differ if not place.startswith(("/streams", "/steps/1"))] == [], (
            f"killed at {killed}"
        )
    assert killed
    return len(killed)


@pytest.mark.parametrize("name", ["Selective-Backprop", "ledger"])
def test_a_killed_process(tmp_path: Path, name: str) -> None:
    assert check(tmp_path, name, world=1, kills=3) >= 2


def test_two_killed_ranks(tmp_path: Path) -> None:
    assert check(tmp_path, "refill", world=2, kills=2) >= 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", KILLED)
def test_many_kills(tmp_path: Path, name: str, world: int) -> None:
    kills = sum(check(tmp_path / str(seed), name, world, kills=5, seed=seed) for seed in range(2))
    print(f"{name} on {world} ranks: survived {kills} kills")  # `pytest -s` shows it


# ---------------------------------------------------------------------- one of several, under torchrun


def torchrun(*arguments: str) -> list[str]:
    """The command of docs/guides/distributed.md, on this machine alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    return [*command, f"--master-port={ranks.free_port()}", str(SCRIPT), *arguments]


def go_on(folder: str, epochs: int) -> None:
    """Run the script once more."""
    sys.argv = [str(SCRIPT), "--folder", folder, "--epochs", str(epochs)]
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_when_one_rank_is_killed_the_launcher_ends_the_others(tmp_path: Path) -> None:
    """And the run can go on from its last checkpoint."""
    process = subprocess.Popen(
        torchrun("--folder", str(tmp_path), "--epochs", "100000"),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        pids: dict[str, int] = {}
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("rank "):
                _, rank, _, pid = line.split()
                pids[rank] = int(pid)
            if line.startswith("epoch 2"):
                break
        assert len(pids) == 2, "".join(seen)
        os.kill(pids["1"], signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in output
    with pytest.raises(ProcessLookupError):
        os.kill(pids["0"], 0)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    ranks.run(2, go_on, str(tmp_path), last["epoch"] + 3)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == last["epoch"] + 2


@pytest.mark.slow
def test_the_command_of_the_guide(tmp_path: Path) -> None:
    """From beginning to end; both ranks have the same weights."""
    command = torchrun("--folder", str(tmp_path), "--epochs", "3")
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    sums = [line.split()[-1] for line in done.stdout.splitlines() if "weights" in line]
    assert len(sums) == 2
    assert sums[0] == sums[1]


def test_the_guide_has_this_command_and_this_script() -> None:
    guide = (ROOT / "docs" / "guides" / "distributed.md").read_text()
    assert "torchrun --nproc-per-node=2 train.py" in guide
    source = SCRIPT.read_text()
    for line in ("SelectiveBackprop(keep=0.5)", 'os.environ.get("LOCAL_WORLD_SIZE", 1)', 'strategy="ddp"'):
        assert line in guide
        assert line in source
