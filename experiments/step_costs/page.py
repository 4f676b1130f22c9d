"""The page about the cost of selected steps, from the files that runs leave beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.allocator import VARIABLES
from experiments.files import read_json, write_json, write_text
from experiments.records import Row, read, write
from experiments.step_costs import tables
from experiments.step_costs.figure import draw
from experiments.step_costs.options import OPTIONS
from experiments.step_costs.verdict import LONG_MS, by_option, verdict

PARTS = ("results", "sizes", "history", "ledger", "fidelity", "data_path", "freed_memory")
NAMES = {"cpu": "CPU", "cuda": "GPU"}
FACTS = ("python", "torch", "pytorch-lightning", "litselect", "commit")


@dataclass(frozen=True)
class Findings:
    """What a run on one device found.

    Attributes:
        facts: where, when, and how: versions, settings, command.
        rows: by part, see `PARTS`.
    """

    facts: dict[str, Any]
    rows: dict[str, list[Row]]

    def write(self, folder: Path) -> None:
        """As files: a CSV file for each part that was measured."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in PARTS:
            (folder / f"{name}.csv").unlink(missing_ok=True)
            if self.rows.get(name):
                write(folder / f"{name}.csv", self.rows[name])
        write_json(folder / "facts.json", self.facts)

    @classmethod
    def read(cls, folder: Path) -> "Findings":
        """From those files."""
        files = {name: folder / f"{name}.csv" for name in PARTS}
        facts = read_json(folder / "facts.json")
        return cls(facts, {name: read(file) for name, file in files.items() if file.exists()})


def write_page(file: Path) -> None:
    """The page, from the folders of the devices beside it."""
    parts = ["# What a selected step costs", _INTRODUCTION]
    for device, name in NAMES.items():
        folder = file.with_suffix("") / device
        if (folder / "facts.json").exists():
            parts += _section(name, Findings.read(folder), folder, file)
        else:
            line = f"python -m experiments.speed device={device}"
            more = " trace=true" if device == "cuda" else ""
            parts += [f"## {name}: not yet run", f"**{name}: not yet run; the command is** `{line}{more}`."]
    parts += ["## How", *_METHOD]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "\n\n".join(parts) + "\n")


def _section(name: str, found: Findings, folder: Path, file: Path) -> list[str]:
    facts, results = found.facts, found.rows["results"]
    near = folder.relative_to(file.parent).as_posix()
    names = list(dict.fromkeys(row["option"] for row in results))
    parts = [
        f"## {name}",
        f"Made by `{facts['command']}` on {facts['date']}, not by hand; all values in "
        f"[results.csv]({near}/results.csv). "
        + ", ".join([facts["hardware"], *(f"{fact} {facts[fact]}" for fact in FACTS)])
        + f". {facts['clock']}",
        *verdict(results, f"near-the-floor-by-option-{name.lower()}"),
        f"### Networks ({name})",
        "A cell is *measured (quartiles) / floor = measured over floor*, in plain steps of N; *bare scores* and *peak "
        "memory* (in the order of the kept fractions) are in plain steps of N too.",
        tables.options(names),
        *tables.by_group(results),
    ]
    if sizes := found.rows.get("sizes"):
        image = folder.with_suffix(".svg")
        draw(sizes, found.rows["history"], found.rows["ledger"], image)
        parts += [f"### Scaling ({name})", f"![Costs against sizes]({image.relative_to(file.parent).as_posix()})"]
        parts += [f"keep {sizes[0]['keep']}. What a selected step takes beyond its bare parts, in ms:"]
        parts += [tables.overheads(sizes)]
    if fidelity := found.rows.get("fidelity"):
        parts += [f"### Fidelity ({name})", facts["fidelity"], tables.fidelity(fidelity)]
    if data := found.rows.get("data_path"):
        parts += [f"### Rows that are not loaded ({name})", tables.data_path(data)]
        parts += [
            f"JPEGs of {data[0]['side']} x {data[0]['side']} pixels in memory, decoded in the training process; a "
            f"small MLP; keep {data[1]['keep']}, N = {data[0]['n']}. Where scores are known before a batch is loaded, "
            "only its chosen rows are decoded."
        ]
    if freed := found.rows.get("freed_memory"):
        words = _FREED.format(keep=freed[0]["keep"], chunks=OPTIONS["chunks"].what, variables=VARIABLES)
        parts += [f"### Memory that is given back ({name})", words, tables.freed_memory(freed)]
    own = f"Of cells whose plain step takes {LONG_MS:g} ms or more; medians. Each cell is in the tables above."
    return [*parts, f"### Near the floor, by option ({name})", own, by_option(results)]


_INTRODUCTION = (
    "A step of selected training, through the Trainer, beside a plain step on the same N candidates; and its *floor*, "
    "the sum of the bare parts that it can't do without, measured in the same run."
)
_FREED = (
    "By default, glibc gives large tensors back to the system when they are freed, and gets them again page by page. "
    "Whether it does is decided by all that a process did before. Everything above was therefore measured in a process "
    "that keeps its memory, and here are trainings through the Trainer, each alone in a process of either way: ms of "
    "processor time for a step, and in brackets the pages that the system handed out for it, in thousands. fp32, keep "
    "{keep}; `chunks` is {chunks}. To keep memory, set `{variables}` before a training starts."
)
_METHOD = (
    "*Measured*: from the start of a batch to the start of the next, so with loading (of tensors in memory), scoring, "
    "selection, step, counters and logs. All trainings of a network, a precision and a kept fraction are in the middle "
    "of `Trainer.fit` at once and take turns of a few steps each, every round beginning with another one; the parts of "
    "the floors take turns with them. Ratios are taken within a round, then their median and quartiles over rounds. "
    "The first batches of each training, in which things are checked, and the last, in which memory is watched, are "
    "not timed. Epochs before the timed one (the first one of a ledger, the scoring one of `rescore_every=2`) are run, "
    "and not timed; the ranks that a ledger makes at the start of an epoch are in the figure alone. Rows that are "
    "chosen before loading are chosen for 32 batches in a row; here for one turn and the step before it, so that each "
    "turn bears the cost of its own choices, and more than its share: five in a row, say, take longer each than 32.",
    "*Floor*, each part in plain steps of N: *bare scores* s are a forward pass with the losses of N rows under "
    "`no_grad`, in evaluation mode, and in the precision, format and resolution of the option (weights in that format "
    "already, the input brought into it), outside of Lightning; compiled only where the scoring pass is. A *step of "
    "k* is a plain step through the Trainer with batches of k, so that what small batches lose is in the floor. "
    "Options that score: s + step of k; `every_2`, `stale_both`: s / 2 + step of k; options that know their scores, "
    "and `random`: step of k. `reuse`: F + (1 - F) k / N, where F is the forward pass of training with its graph. "
    "`auto`: the least s of the kinds that it looks at, but for images of half the size, which choose other rows and "
    "so are not taken, + step of k.",
    "*Peak memory*: all tensors alive at the peak of a step, beyond those at its start: counted storages on a CPU, the "
    "allocator's on CUDA.",
)
