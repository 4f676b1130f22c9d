"""What the numbers say of the goals."""

from statistics import median

from experiments.records import Row
from experiments.report.document import Table
from experiments.report.markdown import to_table
from experiments.step_costs.models import TITLES
from experiments.step_costs.options import OPTIONS

LONG_MS, WITHIN = 20.0, 1.05  # the goal: so near to the floor wherever a plain step takes so long
AT, SCORED, REMEMBERED = "1/3", 0.48, 0.35  # costs aimed at, with bfloat16 scores and with remembered ones


def judged(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Of the cells with long steps those that are near the floor, and those that are not, the worst first."""
    long = [row for row in rows if float(row["plain_ms"]) >= LONG_MS]
    far = sorted((row for row in long if float(row["ratio"]) > WITHIN), key=lambda row: -float(row["ratio"]))
    return [row for row in long if float(row["ratio"]) <= WITHIN], far


def verdict(rows: list[Row], anchor: str) -> list[str]:
    """Paragraphs.

    Args:
        rows: the results.
        anchor: of the heading above the table by option.
    """
    near, far = judged(rows)
    return [
        f"**Near the floor.** The goal is at most {WITHIN} floors wherever a plain step takes {LONG_MS:g} ms or more: "
        f"{len(near)} of {len(near) + len(far)} cells meet it"
        + (f", {len(far)} do not ([by option](#{anchor}))." if far else "."),
        *_goals(rows),
        *_carried(rows),
    ]


def by_option(rows: list[Row]) -> str:
    """For each option, how many cells meet the goal, and what it takes beyond its floor."""
    head = ("option", "near the floor", "of cells", "measured / floor", "worst", "beyond the floor, ms")
    lines: list[tuple[str, ...]] = []
    for option in dict.fromkeys(row["option"] for row in rows):
        near, far = judged([row for row in rows if row["option"] == option])
        cells = near + far
        if cells:
            ratios = [float(row["ratio"]) for row in cells]
            own = [(float(row["measured"]) - float(row["floor"])) * float(row["plain_ms"]) for row in cells]
            middle, most = f"{median(ratios):.2f}", f"{max(ratios):.2f}"
            lines.append((option, str(len(near)), str(len(cells)), middle, most, f"{median(own):.1f}"))
    return to_table(Table(head, lines)) if lines else "None."


def _where(row: Row) -> tuple[str, str]:
    return TITLES[row["model"]], row["precision"] + (", compiled" if row["compiled"] == "true" else "")


def _goals(rows: list[Row]) -> list[str]:
    """The measured costs beside those aimed at."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        remembered = row["option"] in ("ledger", "stale")
        if row["keep"] == AT and (remembered or (row["option"] == "bf16" and row["precision"] == "fp32")):
            goal, cost = REMEMBERED if remembered else SCORED, float(row["measured"])
            words = "met" if cost <= goal else f"missed by {cost - goal:.2f}"
            plain, floor = f"{float(row['plain_ms']):.0f}", f"{float(row['floor']):.2f}"
            lines.append((*_where(row), plain, row["option"], f"{cost:.2f}", f"{goal:g}", words, floor))
    if not lines:
        return []
    head = ("network", "training", "plain step, ms", "option", "measured", "goal", "", "floor")
    words = (
        f"**At keep {AT}**, of a plain step of N, beside what was aimed at before it was measured: {REMEMBERED} with "
        f"remembered losses, which is k / N and 5 %, and {SCORED} with a pass in bf16, which is k / N and .14. "
        "Where the floor lies above, small batches cost more than their share."
    )
    return [words, to_table(Table(head, lines))]


def _carried(rows: list[Row]) -> list[str]:
    """Where training is in bfloat16: which option with scores of the present weights is cheapest."""
    lines: list[tuple[str, ...]] = []
    groups = {(*_where(row),) for row in rows if row["precision"] == "bf16"}
    for title, training in sorted(groups, key=lambda group: (list(TITLES.values()).index(group[0]), group[1])):
        own = [row for row in rows if _where(row) == (title, training) and row["keep"] == AT]
        scored = [row for row in own if OPTIONS[row["option"]].fresh]
        if scored:
            best = min(scored, key=lambda row: float(row["measured"]))
            full = next((row for row in own if row["option"] == "full"), None)
            cost, beside = float(best["measured"]), f"{float(full['measured']):.2f}" if full else ""
            words = "reaches it" if cost <= SCORED else f"misses it by {cost - SCORED:.2f}"
            lines.append((title, training, beside, best["option"], f"{cost:.2f}", words))
    if not lines:
        return []
    head = ("network", "training", "`full`", "cheapest", "measured", f"beside {SCORED:g}")
    sentence = (
        "**Where training is in bf16**, scores in bf16 are no longer cheaper than its own forward pass. Of the options "
        f"that score every batch by a forward pass, at keep {AT}:"
    )
    return [sentence, to_table(Table(head, lines))]
