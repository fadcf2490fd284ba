"""The subcommand ``recokit candidates``: lists of candidates for some queries of a version, or all, as Parquet."""

__all__ = ["candidates"]

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recokit.cli import JsonFlag, emit, find_relation, progress, text_table, typed
from recokit.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from recokit.candidates import CandidateGenerator
    from recokit.index import Index
    from recokit.table import EmbeddingTable, Mixture, RelationParameters, Version


def candidates(
    path: Annotated[str, typer.Argument(metavar="VERSION", help="A version: its folder or URL, or STORE@NAME.")],
    *,
    queries: Annotated[str, typer.Option(help="The table or mixture of the queries; a folder will do.")],
    output: Annotated[Path, typer.Option(help="A folder of parts, or a file that ends in .parquet for one chunk.")],
    relation: Annotated[str | None, typer.Option(help="Follow this relation to its targets.")] = None,
    items: Annotated[
        str | None,
        typer.Option(help="The table or mixture of the candidates (default: the relation's targets, or the queries)."),
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="Query ids: Parquet, CSV or TSV with a column id.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All ids of the queries.")] = False,
    k: Annotated[int, typer.Option("-k", help="Candidates of each query.")] = 100,
    allocation: Annotated[
        str,
        typer.Option(help="round_robin, proportional, sainte_lague, min_one or max_score: how components share."),
    ] = "round_robin",
    aggregate: Annotated[
        str, typer.Option(help="sum or max: what is made of the components of an item that is a mixture.")
    ] = "sum",
    missing: Annotated[
        str | None,
        typer.Option(help="zero or floor: what a component not found counts (default: zero for cos, else floor)."),
    ] = None,
    exclude: Annotated[
        str | None, typer.Option(metavar="FILE", help="Pairs not to be found: columns query, candidate.")
    ] = None,
    exclude_columns: Annotated[
        str, typer.Option(metavar="QUERY,CANDIDATE", help="What that file calls them.")
    ] = "query,candidate",
    any_version: Annotated[
        bool, typer.Option("--any-version", help="Queries of another version, whose vectors share the space.")
    ] = False,
    index: Annotated[Path | None, typer.Option(help="A saved index over the candidates.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Search all rows; the default.")] = False,
    hnsw: Annotated[bool, typer.Option("--hnsw", help="Build an HNSW index first.")] = False,
    chunk: Annotated[int, typer.Option(help="Queries of a part.")] = 100_000,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Leave query ids out that the table does not have.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an output that was begun.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the best candidates of many queries, part by part, and write them as Parquet."""
    from recokit.candidates import CandidateGenerator
    from recokit.index.scoring import check_k
    from recokit.store import open_source
    from recokit.table import Mixture

    started = time.perf_counter()
    check_k(k)
    _check_options(ids, everyone, index, exact=exact, hnsw=hnsw, chunk=chunk)
    version = open_source(path)
    asked_table = _opened(version, queries)
    chosen = None if relation is None else find_relation(version, relation)
    items_name = items or _default_items(version, queries, asked_table, chosen)
    found_table = _opened(version, items_name)
    table = found_table.components if isinstance(found_table, Mixture) else found_table
    asked, unknown = _asked(asked_table, ids, skip_unknown)
    excluded = _Exclusions.read(exclude, exclude_columns, asked_table, found_table)
    settings = {
        "version": version.name,
        "version_sha256": _sha256(version.path / "version.json"),
        "queries": queries,
        "queries_sha256": _folder_sha256(version, queries),
        "items": items_name,
        "items_sha256": _folder_sha256(version, items_name),
        "relation": relation,
        "k": k,
        "allocation": allocation,
        "aggregate": aggregate,
        "missing": missing,
        "index": _index_name(index, hnsw),
        "chunk": chunk,
        "ids_sha256": _ids_sha256(asked),
        "exclude_sha256": excluded.sha256,
    }

    def generator() -> CandidateGenerator:
        return CandidateGenerator(
            _index(table, index, hnsw),
            asked_table,
            chosen,
            allocation=allocation,  # type: ignore[arg-type]  # checked there, as the next two
            items=found_table if isinstance(found_table, Mixture) else None,
            aggregate=aggregate,  # type: ignore[arg-type]
            missing=missing,  # type: ignore[arg-type]
            any_version=any_version,
        )

    work = _Work(generator, asked, excluded, k, chunk)
    counts = _write_single(output, work, settings, resume) if output.suffix == ".parquet" else None
    counts = counts or _write_parts(output, work, settings, resume)
    document = {
        "output": str(output),
        **{name: settings[name] for name in ("version", "queries", "items", "relation", "k", "allocation")},
        "asked": len(asked),
        "unknown": unknown,
        **counts,
        "seconds": round(time.perf_counter() - started, 3),
    }
    given = {name: value for name, value in document.items() if value is not None}
    shown = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in given.items()]
    emit(document, as_json, text_table(f"candidates of {queries}", ("what", "value"), shown))


@dataclass(frozen=True, eq=False)
class _Exclusions:
    """Pairs that are not to be found, in the order of their queries' rows."""

    frame: "pd.DataFrame | None"
    rows: Any  # (P,) ascending
    sha256: str | None

    @classmethod
    def read(
        cls, source: str | None, names: str, queries: "EmbeddingTable | Mixture", items: "EmbeddingTable | Mixture"
    ) -> "_Exclusions":
        import numpy as np

        from recokit.frame import read_frame
        from recokit.table.folder import npy_digest

        if source is None:
            return cls(None, None, None)
        if len(columns := names.split(",")) != 2 or "" in columns:
            raise ConfigError(f"--exclude-columns: got {names!r}, expected two names, of queries and of candidates")
        # As text first: ids such as 007 are strings to the table, whatever they look like.
        frame = read_frame(source, dict(zip(("query", "candidate"), columns, strict=True)), id_type="string")
        frame = typed(frame, {"query": queries.id_type, "candidate": items.id_type}, source)
        rows, found = queries.rows(frame["query"]), items.rows(frame["candidate"])
        known = np.flatnonzero((rows >= 0) & (found >= 0))
        known = known[np.lexsort((found[known], rows[known]))]
        return cls(frame.iloc[known], rows[known], npy_digest(np.stack([rows[known], found[known]])))

    def of(self, rows: Any) -> "pd.DataFrame | None":
        """Return the pairs of some queries' rows."""
        import numpy as np

        if self.frame is None:
            return None
        first, last = np.searchsorted(self.rows, rows, "left"), np.searchsorted(self.rows, rows, "right")
        counts = last - first
        at = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
        pairs: pd.DataFrame = self.frame.iloc[at]
        return pairs


@dataclass(frozen=True, eq=False)
class _Work:
    """Lists to make, chunk by chunk."""

    generator: "Callable[[], CandidateGenerator]"  # an index may be built, and need not be where all is there
    asked: "pa.Array"
    excluded: _Exclusions
    k: int
    chunk: int

    @property
    def parts(self) -> int:
        return max(1, -(-len(self.asked) // self.chunk))

    def frame(self, generate: "CandidateGenerator", number: int) -> "pd.DataFrame":
        asked = self.asked.slice(number * self.chunk, self.chunk)
        return generate(asked, self.k, exclude=self.excluded.of(generate.queries.rows(asked)))


def _write_parts(output: Path, work: _Work, settings: dict[str, Any], resume: bool) -> dict[str, int]:
    from recokit.candidates.files import begin_folder

    generate = None if output.exists() else work.generator()  # what does not fit is refused before a folder is there
    folder = begin_folder(output, settings, work.parts, resume=resume)
    there = [number for number in range(work.parts) if folder.has(number)]
    queries, made = len(work.asked), len(there)
    with progress("candidates", queries) as advance:
        advance(min(made * work.chunk, queries), queries)
        for number in range(work.parts):
            if folder.has(number):
                continue
            generate = generate or work.generator()
            folder.write(number, work.frame(generate, number))
            made += 1
            advance(min(made * work.chunk, queries), queries)
    folder.finish()
    rows = sum(folder.count(number) for number in range(work.parts))
    return {"candidates": rows, "parts": work.parts, "resumed": len(there)}


def _write_single(output: Path, work: _Work, settings: dict[str, Any], resume: bool) -> dict[str, int]:
    import pyarrow.parquet as pq

    from recokit.candidates.files import has_single, write_single

    if work.parts > 1:
        raise ConfigError(
            f"{output} is a file, which holds one chunk, but {len(work.asked):,} queries make {work.parts} of "
            f"{work.chunk:,}: name a folder, or set --chunk"
        )
    there = has_single(output, settings, resume=resume)
    if not there:
        with progress("candidates", len(work.asked)):  # one step
            write_single(output, work.frame(work.generator(), 0), settings)
    return {"candidates": pq.read_metadata(output).num_rows, "parts": 1, "resumed": int(there)}


def _check_options(
    ids: Path | None, everyone: bool, index: Path | None, *, exact: bool, hnsw: bool, chunk: int
) -> None:
    if (ids is None) != everyone:
        raise ConfigError("whose candidates? expected either --ids FILE or --all")
    if (index is not None) + exact + hnsw > 1:
        raise ConfigError("--index, --exact and --hnsw are three ways to search: expected one of them")
    if chunk < 1:
        raise ConfigError(f"--chunk is {chunk}, expected at least 1")


def _opened(version: "Version", name: str) -> "EmbeddingTable | Mixture":
    """Open a table or a mixture of a version by name, or a folder of either that stands elsewhere."""
    from recokit.table import load_table, vectors_or_mixture

    # A name that is neither is for the version to refuse, which says what there is.
    outside = name not in version.tables and (Path(name) / "table.json").is_file()
    return vectors_or_mixture(load_table(name) if outside else version.open(name), "candidates")


def _default_items(
    version: "Version",
    name: str,
    queries: "EmbeddingTable | Mixture",
    relation: "RelationParameters | None",
) -> str:
    if relation is not None:
        found = version.table_of(relation.name, "target", kinds=("vectors", "mixture"))
        if found is None:
            raise ConfigError(f"version {version.name!r} has no table of {relation.target!r}: say which with --items")
        return found
    if queries.kind == "mixture":
        raise ConfigError(f"candidates for the mixture {name!r} of what? expected --relation or --items")
    return name


def _asked(queries: "EmbeddingTable | Mixture", file: Path | None, skip_unknown: bool) -> "tuple[pa.Array, int]":
    """Return the distinct ids that candidates are wanted of, in their order, and how many are unknown."""
    import numpy as np

    from recokit.frame import read_frame

    if file is None:
        return queries.ids, 0
    ids = read_frame(file, ("id",), ids=("id",), id_type=queries.id_type)["id"]
    rows = queries.rows(ids)
    if (missing := np.flatnonzero(rows < 0)).size and not skip_unknown:
        first = ", ".join(map(repr, ids.iloc[missing[:3]].tolist()))
        raise DataError(
            f"{file}: {missing.size} of {len(ids)} ids are not in {queries.entity!r}, such as {first}; "
            "--skip-unknown leaves them out"
        )
    rows = rows[rows >= 0]
    return queries.ids_at(rows[np.sort(np.unique(rows, return_index=True)[1])]), int(missing.size)


def _index(table: "EmbeddingTable", folder: Path | None, hnsw: bool) -> "Index":
    from recokit.index import ExactIndex, HNSWIndex, load_index

    if folder is not None:
        return load_index(folder, table)
    return HNSWIndex.build(table) if hnsw else ExactIndex.build(table)


def _index_name(folder: Path | None, hnsw: bool) -> str:
    if folder is not None:
        return f"saved {_sha256(folder / 'index.json')}"
    return "hnsw" if hnsw else "exact"


def _folder_sha256(version: "Version", name: str) -> str:
    """Return what tells a table from others: the checksum of its manifest, which holds those of its files."""
    folder = version.tables[name].path if name in version.tables else Path(name)
    return _sha256(folder / "table.json")


def _ids_sha256(ids: "pa.Array") -> str:
    from recokit.table.ids import ids_digest

    return ids_digest(ids)


def _sha256(file: Path) -> str:
    from recokit.table.folder import sha256_of

    return sha256_of(file)
