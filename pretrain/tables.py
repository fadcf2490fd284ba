"""What the commands that train show: the edges that were read, and how held-out edges rank."""

__all__ = ["evaluation_table", "protocol_line", "read_table", "usage_table"]

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from pretrain.evaluate import Evaluation
from recokit.cli import text_table


def read_table(read: Iterable[Mapping[str, Any]]) -> Table:
    """Return the rows of a ``GraphSummary`` for people."""
    rows = [
        [row["relation"], *(f"{row[key]:,}" for key in ("read", "null", "below_min_count", "edges"))] for row in read
    ]
    return text_table("edges read", ("relation", "read", "without an end", "below min_count", "edges"), rows)


def evaluation_table(evaluation: Evaluation, network: str) -> Table:
    """Return the metrics of relations for people."""
    frame = evaluation.to_frame()
    rows = [
        [str(relation), *(f"{v:,.0f}" if name == "questions" else f"{v:.4f}" for name, v in row.items())]
        for relation, row in frame.iterrows()
    ]
    title = "held-out edges, filtered rank among all entities" + (f": {network}" if network else "")
    return text_table(title, ("relation", *frame.columns), rows)


def usage_table(usage: Mapping[str, Mapping[str, Any]], network: str) -> Table:
    """Return how the components of mixtures are used, for people."""
    rows = [
        [
            entity,
            str(row["components"]),
            f"{row['effective']:.2f}",
            ", ".join(f"{share:.0%}" for share in row["won_within"]),
            f"{row['dead']:.1%}",
            f"{row['distance']:.3f}",
        ]
        for entity, row in usage.items()
    ]
    head = ("entity", "components", "in effect", "positives won, busiest first", "dead", "1 - cosine between them")
    return text_table("components" + (f": {network}" if network else ""), head, rows)


def protocol_line(evaluation: Evaluation) -> str:
    """Return how the metrics were measured, in a line."""
    return ", ".join(f"{key}: {value}" for key, value in evaluation.results[0]["protocol"].items() if value != [])
