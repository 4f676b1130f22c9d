"""What a result was measured with: hardware and versions."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("litselect", "torch", "pytorch-lightning", "hydra-core", "numpy")


def describe() -> dict[str, str]:
    """Hardware, system, versions and commit, as printed in reports."""
    facts = {"hardware": _hardware(), "system": platform.platform(), "python": platform.python_version()}
    facts |= {package: version(package) for package in PACKAGES}
    return facts | {"commit": _commit()}


def _hardware() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = f"{_processor()}, {cores} cores, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name()}; {processor}" if torch.cuda.is_available() else processor


def _processor() -> str:
    """The processor's name; the platform module knows only its family on Linux."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of this checkout, marked if files differ from it, or "unknown" outside of one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        state = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return "unknown"
    if commit.returncode or state.returncode:
        return "unknown"
    return commit.stdout.strip() + (" with uncommitted changes" if state.stdout.strip() else "")
