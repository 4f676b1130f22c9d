"""The page about estimators."""

from omegaconf import DictConfig

from experiments import environment
from experiments.look_aheads.problems import EARLIER, NETWORKS, OPTIMIZERS
from experiments.records import Row
from experiments.report.document import Table
from experiments.report.markdown import to_table

FACTS = ("hardware", "python", "torch", "litselect")
EXACT = ("unroll", "adjoint", "jvp")


def page(config: DictConfig, line: str, rows: list[Row]) -> str:
    """All tables, from the rows of the CSV file."""
    known = environment.describe()
    exact = [row for row in rows if row["precision"] == "float64" and row["estimator"] in EXACT]
    single = [row for row in rows if row["precision"] == "float32" and row["estimator"] in EXACT]
    seeds = ", ".join(map(str, config.seeds))
    each = [(f"{network}, {optimizer}", [network], [optimizer]) for network in NETWORKS for optimizer in OPTIMIZERS]
    together = [(network, [network], list(OPTIMIZERS)) for network in NETWORKS]
    paragraphs = (
        "# How exact the estimators are, and how many operations they take",
        f"Made by `{line}`, not by hand; all values in [estimators.csv](estimators.csv).",
        "The gradient of a rater by each estimator beside that by unrolling in float64: norm of the difference over "
        f"norm, and cosine, the worst of seeds {seeds}. The adjoint and jvp are exact: off by at most "
        f"{_worst(exact):.0e} in float64, and by at most {_worst(single):.0e} in float32, as unrolling itself is.",
        "## float64",
        to_table(_errors(rows, config.steps, "float64", each)),
        "## float32, the worst of all optimizers",
        to_table(_errors(rows, config.steps, "float32", together)),
        "Central differences (fd) follow smooth models. The gradient of ReLU jumps, and a jump between the two ends is "
        "divided by their distance, which is shorter in float64: fewer jumps are met there, each of which counts for "
        "more. So in models with ReLU fd is better in float32 than in float64 (compare GroupNorm with ReLU and with "
        "GELU), and in neither to be relied upon where T > 1 and steps are large.",
        "## Operations",
        to_table(_operations(rows, config.steps)),
        "Those of a window of T steps, with the gradient with respect to the weights of its examples, as a multiple of "
        "one forward and backward pass of a batch of that size: matrix products and convolutions "
        "(`torch.utils.flop_counter`); rater and optimizer are left out. The counter sees forward mode and second "
        "derivatives: the transformer comes to what one derives by hand, 4 T - 1 for the adjoint (T steps and the "
        "held-out one; with tangents a pass is worth three) and 3 T - 1/3 for fd. torch has no forward rule for the "
        "backward pass of GroupNorm, so that from T = 2 on its Hessian-vector products are two backward passes.",
        f"Batches of {config.rows} rows, T steps after {EARLIER} earlier ones: digits of 8 x 8 pixels, and for the "
        "transformer (two blocks, `scaled_dot_product_attention`) code of argparse. SGD at 0.1; momentum 0.9 at 0.05; "
        "Adam at 1e-3; AdamW with a weight decay of 0.1. " + ", ".join(f"{name} {known[name]}" for name in FACTS) + ".",
    )
    return "\n\n".join(paragraphs) + "\n"


def _worst(rows: list[Row]) -> float:
    return max(float(row["error"]) for row in rows)


def _errors(rows: list[Row], steps: list[int], precision: str, lines: list[tuple[str, list[str], list[str]]]) -> Table:
    """A line for each name with its networks and optimizers: error and cosine, the worst of them."""
    columns = [(e, t) for t in steps for e in ("adjoint", "jvp", "fd") if e != "jvp" or t == 1]
    table: list[tuple[str, ...]] = []
    for name, networks, optimizers in lines:
        cells: list[str] = []
        for estimator, t in columns:
            which = (str(t), estimator, precision)
            own = [
                row
                for row in rows
                if (row["steps"], row["estimator"], row["precision"]) == which
                and row["network"] in networks
                and row["optimizer"] in optimizers
            ]
            cells.append(f"{_worst(own):.0e}, {min(float(row['cosine']) for row in own):.4f}")
        table.append((name, *cells))
    return Table(("", *(f"{estimator}, T = {t}" for estimator, t in columns)), table)


def _operations(rows: list[Row], steps: list[int]) -> Table:
    columns = [(e, t) for t in steps for e in ("unroll", "adjoint", "jvp", "fd") if e != "jvp" or t == 1]
    found = {(row["network"], row["estimator"], row["steps"]): row["operations"] for row in rows}
    lines = [(n, *(f"{float(found[n, e, str(t)]):.1f}" for e, t in columns)) for n in NETWORKS]
    return Table(("network", *(f"{estimator}, T = {t}" for estimator, t in columns)), lines)
