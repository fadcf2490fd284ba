"""The main job, end to end, on real data: ``recokit demo``.

From a log of ratings to a network, embeddings, published versions, an index, candidates, a ranker, and a report in
which every number stands beside honest floors (``pretrain.experiments``).
"""

__all__ = ["demo"]

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pretrain.experiments import MADE, Ranking, Retrieval, Workshop
from pretrain.graph import Graph
from pretrain.movielens import MovieData, load_movielens
from pretrain.planted import planted_movies
from pretrain.progress import training_progress
from recokit.cli import JsonFlag, text_table
from recokit.errors import RecokitError
from recokit.report import Report, markdown_table, seed_table, write_text

_RETRIEVAL = (
    "retrieval: each user's last 20 % of likes, among all movies",
    ("recall@10", "recall@100", "ndcg@10", "mrr"),
)
_RANKING = (
    "ranking: will this user like this movie? (network, ranker and test rows disjoint)",
    ("rce", "auc", "log_loss"),
)
_READING = (
    "A system's ± is the standard deviation over seeds. A difference stands with its 95 % interval from a paired "
    "bootstrap over users, the interval's ends averaged over seeds."
)
_EXAMPLE = ("user", "liked last", "recommended")
_Rows = list[tuple[str, ...]]


def demo(
    output: Annotated[Path, typer.Option(help="Folder of the versions and the report; made anew.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs, each with a seed of its own.")] = 3,
    planted: Annotated[bool, typer.Option("--planted", help="Use the planted network, not the real data.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run the main job on MovieLens-100k: network, embeddings, candidates, ranker, report."""
    console = Console(stderr=as_json)
    data = planted_movies() if planted else _data(console)
    console.print(f"[bold]data[/]  {data.source}: {len(data.ratings):,} ratings, {len(data.knowledge):,} facts")
    _clear(output)
    workshop = Workshop(output, lambda name: training_progress(name, console))
    retrieval = Retrieval(data, workshop)
    console.print(_network(retrieval.graphs["HIN"]))
    report = retrieval.floors()
    for seed in range(seeds):
        report |= retrieval.run(seed)
    ranking = Ranking(data, workshop)
    for seed in range(seeds):
        report |= ranking.run(seed)
    figures = [(title, seed_table(report, metrics)) for title, metrics in (_RETRIEVAL, _RANKING)]
    examples: _Rows = [(user, "\n".join(liked), "\n".join(found)) for user, liked, found in retrieval.examples()]
    report.save(output / "report.json")
    write_text(output / "report.md", _markdown(data, report, figures, examples))
    if as_json:
        typer.echo(report.to_json())
        return
    for title, rows in figures:
        console.print(text_table(title, rows[0], rows[1:]))
    console.print(text_table("recommended", _EXAMPLE, examples, lines=True))
    folder = escape(str(output))
    console.print(f"[bold]written[/]  {folder}/report.md, {folder}/report.json, {folder}/embeddings, {folder}/rankers")


def _data(console: Console) -> MovieData:
    try:
        return load_movielens()
    except RecokitError as error:
        reason = escape(str(error))
        console.print(f"[yellow]no real data[/] ({reason}); going on with a planted synthetic network", soft_wrap=True)
        return planted_movies()


def _clear(output: Path) -> None:
    """Remove the versions and rankers that an earlier demo left, by their names, and nothing else."""
    for name in MADE:
        for path in output.glob(name):
            shutil.rmtree(path)
    output.mkdir(parents=True, exist_ok=True)


def _network(graph: Graph) -> Table:
    rows = [(name, r.source, r.target, f"{len(graph.edges[name]):,}") for name, r in graph.relations.items()]
    return text_table("the network", ("relation", "source", "target", "edges"), rows)


def _markdown(data: MovieData, report: Report, figures: list[tuple[str, _Rows]], examples: _Rows) -> str:
    """The page for people: the figures, some recommendations, then every result with its protocol."""
    parts = ["# recokit demo", f"Data: {data.source}.", _READING]
    for title, rows in figures:
        parts += [f"## {title[0].upper()}{title[1:]}", markdown_table(rows[0], rows[1:])]
    shown = [tuple(cell.replace("\n", "<br>") for cell in row) for row in examples]
    parts += ["## Recommended", markdown_table(_EXAMPLE, shown, numbers=False)]
    parts += ["## All results", report.to_markdown()]
    return "\n\n".join(parts)
