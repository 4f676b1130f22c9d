"""The tables of the page."""

from experiments.records import Row
from experiments.report.document import Table
from experiments.report.markdown import to_table
from experiments.step_costs.models import TITLES
from experiments.step_costs.options import OPTIONS


def by_group(rows: list[Row]) -> list[str]:
    """A heading and a table for each network and precision."""
    parts: list[str] = []
    for model, precision, compiled in dict.fromkeys((r["model"], r["precision"], r["compiled"]) for r in rows):
        own = [r for r in rows if (r["model"], r["precision"], r["compiled"]) == (model, precision, compiled)]
        first, words = own[0], precision + (", compiled" if compiled == "true" else "")
        facts = (
            f"{int(first['parameters']):,} parameters, N = {first['n']}; a plain step takes "
            f"{_number(first, 'plain_ms', 1)} ms, of which the forward pass {float(first['forward']):.0%}; a plain "
            "step of k, in plain steps of N: "
            + ", ".join(f"{_number(row, 'step_k')} at {row['keep']}" for row in _one_per_keep(own))
            + "."
        )
        parts += [f"### {TITLES[model]}, {words}", facts, to_table(_table(own))]
    return parts


def _one_per_keep(rows: list[Row]) -> list[Row]:
    return list({row["keep"]: row for row in reversed(rows)}.values())[::-1]


def _table(rows: list[Row]) -> Table:
    keeps, found = list(dict.fromkeys(row["keep"] for row in rows)), {(r["option"], r["keep"]): r for r in rows}
    lines: list[tuple[str, ...]] = []
    for name in dict.fromkeys(row["option"] for row in rows):
        own = [found[name, keep] for keep in keeps]
        cells = [
            f"{_number(row, 'measured')} ({_number(row, 'measured_25')} to {_number(row, 'measured_75')}) / "
            f"{_number(row, 'floor')} = {_number(row, 'ratio')}"
            for row in own
        ]
        score = _number(own[0], "score") if float(own[0]["score"]) else ""
        lines.append((name, score, *cells, ", ".join(_number(row, "memory") for row in own if row["memory"])))
    return Table(("option", "bare scores", *(f"keep {keep}" for keep in keeps), "peak memory"), lines)


def options(names: list[str]) -> str:
    """What the names mean."""
    return to_table(Table(("option", "setting"), [(name, OPTIONS[name].what) for name in names]))


def overheads(rows: list[Row]) -> str:
    """Milliseconds of a selected step beyond its parts."""
    sizes = list(dict.fromkeys((row["series"], row["size"]) for row in rows))
    found = {(row["series"], row["size"], row["option"]): row for row in rows}
    names = list(dict.fromkeys(row["option"] for row in rows))
    lines: list[tuple[str, ...]] = []
    for series, size in sizes:
        own = [found[series, size, name] for name in names]
        words = f"N = {int(size):,}" if series == "N" else f"{int(own[0]['parameters']):,} parameters"
        lines.append((words, _number(own[0], "plain_ms", 1), *(_number(row, "own_ms") for row in own)))
    return to_table(Table(("", "plain step, ms", *(f"{name}, ms" for name in names)), lines))


def fidelity(rows: list[Row]) -> str:
    """Overlaps and rank correlations."""
    keeps, found = list(dict.fromkeys(row["keep"] for row in rows)), {
        (row["model"], row["option"], row["keep"]): row for row in rows
    }  # fmt: skip
    lines = [
        (
            TITLES[model], option, _number(found[model, option, keeps[0]], "spearman"),
            *(_number(found[model, option, keep], "overlap") for keep in keeps),
        )
        for model, option in dict.fromkeys((row["model"], row["option"]) for row in rows)
    ]  # fmt: skip
    return to_table(Table(("network", "option", "rank correlation", *(f"overlap at {keep}" for keep in keeps)), lines))


def data_path(rows: list[Row]) -> str:
    """Time of a candidate, and rows decoded."""
    lines = [
        (row["option"], f"{float(row['candidate_us']):,.0f}", _number(row, "ratio"), _number(row, "decoded"))
        for row in rows
    ]
    head = ("option", "a candidate, us", "beside plain training", "rows decoded for each candidate")
    return to_table(Table(head, lines))


def freed_memory(rows: list[Row]) -> str:
    """Milliseconds and pages, a line for each network and size."""
    found = {(row["model"], row["n"], row["option"], row["memory"]): row for row in rows}
    options, ways = (list(dict.fromkeys(row[column] for row in rows)) for column in ("option", "memory"))

    def cell(row: Row) -> str:
        return f"{_number(row, 'ms', 1)} ({float(row['pages']) / 1000:.1f})"

    lines = [
        (TITLES[model], n, *(cell(found[model, n, option, way]) for option in options for way in ways))
        for model, n in dict.fromkeys((row["model"], row["n"]) for row in rows)
    ]
    return to_table(Table(("network", "N", *(f"{option}, {way}" for option in options for way in ways)), lines))


def _number(row: Row, column: str, digits: int = 2) -> str:
    return f"{float(row[column]):.{digits}f}"
