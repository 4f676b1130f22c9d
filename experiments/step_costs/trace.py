"""Profiles of a selected training, to look at."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.lightning_manners import quiet
from experiments.step_costs.fit import Columns, fit
from experiments.step_costs.models import Subject
from experiments.step_costs.options import OPTIONS

BATCHES = 6


def export(subject: Subject, precision: str, name: str, keep: float, device: str, folder: Path) -> Path:
    """Trains a few batches under the profiler, and writes a trace for chrome://tracing or Perfetto."""
    torch.manual_seed(0)
    data, learner = Columns(*subject.noise(subject.rows * BATCHES)), subject.learner()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with quiet(), profile(activities=activities) as profiler:
        callbacks = [OPTIONS[name].make(keep, subject)]
        fit(learner, data, subject.rows, callbacks, device=device, precision=precision)
    file = folder / f"{subject.name}-{precision}-{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(file))
    return file
