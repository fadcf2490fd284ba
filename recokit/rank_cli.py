"""The subcommand ``recokit rank``: score impressions or candidates by a saved ranker, block by block, as Parquet."""

__all__ = ["rank"]

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recokit.cli import JsonFlag, emit, progress, text_table
from recokit.errors import ConfigError, FormatError, MissingDependencyError, VersionError, closest

if TYPE_CHECKING:
    import pyarrow as pa

    from recokit.feature_files import Tables
    from recokit.features import FeatureSpec
    from recokit.onnx_ranker import OnnxRanker
    from recokit.rankers import Ranker
    from recokit.scored_frames import FrameFiles


def rank(
    path: Annotated[Path, typer.Argument(metavar="RANKER", help="A saved ranker, or an exported one (ONNX).")],
    frame: Annotated[str, typer.Argument(metavar="FRAME", help="Rows: Parquet, CSV or TSV, a folder or a pattern.")],
    *,
    output: Annotated[Path, typer.Option(help="The file to make, .parquet.")],
    tables: Annotated[
        list[str] | None,
        typer.Option(help="A store, a version or a table; may be given several times (default: where they were)."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME=COLUMN,...", help="What the frame calls the ranker's columns: user_id=query."),
    ] = None,
    group: Annotated[str | None, typer.Option(help="Rank the rows of each of these, best first (query).")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", help="Keep so many of each group.")] = None,
    by: Annotated[str | None, typer.Option(help="Of several labels, the one that decides the order.")] = None,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Take tables of another version than it was trained with.")
    ] = False,
    block: Annotated[int, typer.Option(help="Rows of Parquet scored at a time.")] = 65_536,
    as_json: JsonFlag = False,
) -> None:
    """Score rows by a saved ranker; with --group or --top-k, rank them within their groups."""
    from recokit.scored_frames import FrameFiles, count_groups, ranked_groups, write_parts

    started = time.perf_counter()
    _check_options(output, top_k, block)
    ranker, kind = _load(path, _tables(tables or []), allow_drift=allow_drift)
    renamed = _columns(columns, ranker.features)
    rows = FrameFiles.open(frame, ranker.features, renamed, block)
    wanted = _Wanted.of(ranker.features.labels, group, top_k, by, rows.schema.names)
    groups = None if wanted.group is None else count_groups(rows, wanted.group)
    scorer = _Scorer(ranker, renamed, {})
    with progress("rows", rows.count) as advance:
        parts = (wanted.labelled(part, scores) for part, scores in scorer.scored(rows, advance))
        written = write_parts(output, parts if wanted.group is None else ranked_groups(parts, wanted.group, top_k))
    document = {
        "output": str(output),
        "ranker": kind,
        "rows": scorer.rows,
        "written": written,
        "groups": groups,
        "known": {key: round(count / max(1, scorer.rows), 4) for key, count in scorer.known.items()},
        "seconds": round(time.perf_counter() - started, 3),
    }
    shown = [(name, _shown(value)) for name, value in document.items() if value is not None and name != "known"]
    shown += [(f"{key} known", f"{share:.1%}") for key, share in document["known"].items()]  # type: ignore[attr-defined]
    emit(document, as_json, text_table(f"scores of {frame}", ("what", "value"), shown))


@dataclass(eq=False)
class _Scorer:
    """Scores blocks, and counts rows and known ids."""

    ranker: "Ranker | OnnxRanker"
    renamed: Mapping[str, str]
    known: dict[str, float]
    rows: int = 0

    def scored(self, frame: "FrameFiles", advance: Any) -> "Iterator[tuple[pa.Table, Any]]":
        """Yield blocks, and their scores (N,) or (N, T)."""
        import pandas as pd
        import pyarrow as pa

        for block in frame.blocks(frame.schema.names):
            read = pa.table({name: block.column(column) for name, column in self.renamed.items()})
            asked: pd.DataFrame = read.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
            yield block, self.ranker.predict(asked)
            if len(asked):
                for key, share in self.ranker.features.coverage(asked).items():
                    self.known[key] = self.known.get(key, 0.0) + share * len(asked)
            self.rows += len(asked)
            advance(self.rows, frame.count)


@dataclass(frozen=True)
class _Wanted:
    """What is written: which scores under which names, in whose groups."""

    labels: Sequence[str]
    group: str | None
    by: int  # the place of the label that decides the order

    @classmethod
    def of(
        cls, labels: Sequence[str], group: str | None, top_k: int | None, by: str | None, there: Sequence[str]
    ) -> "_Wanted":
        from recokit.frame.columns import missing_column

        if by is not None and by not in labels:
            raise ConfigError(f"--by: the ranker has no label {by!r}; {closest(by, labels)}")
        ranked = group is not None or top_k is not None
        if by is not None and not ranked:
            raise ConfigError("--by says by which label to rank, which --group or --top-k ask for: add one of them")
        if ranked and by is None and len(labels) > 1:
            raise ConfigError(f"the ranker has the labels {', '.join(labels)}: say with --by which one decides")
        if ranked and group is None:
            group = "query"
        if group in ("score", "rank"):
            raise ConfigError(f"--group: {group!r} is what is written, expected a column that stays: rename it")
        if group is not None and group not in there:
            raise missing_column("the frame", group, there)
        return cls(labels, group, 0 if by is None else labels.index(by))

    def labelled(self, block: "pa.Table", scores: Any) -> "pa.Table":
        """Put scores (N,) or (N, T) beside the rows; what the frame has of these names is kept as ``..._before``."""
        import pyarrow as pa

        added = {"score": scores} if scores.ndim == 1 else {}
        if scores.ndim == 2:
            added = {f"score_{label}": scores[:, place] for place, label in enumerate(self.labels)}
            if self.group is not None:
                added["score"] = scores[:, self.by]
        taken = {*added, "score", "rank"}
        names = [f"{name}_before" if name in taken else name for name in block.column_names]
        columns = dict(zip(names, block.columns, strict=True))  # of two "..._before" the later
        return pa.table(columns | {name: pa.array(values) for name, values in added.items()})


def _load(path: Path, tables: "Tables | None", *, allow_drift: bool) -> "tuple[Ranker | OnnxRanker, str]":
    """Open a ranker, of whichever form its manifest says, and return it and its kind."""
    from recokit.onnx_ranker import FORMAT, MANIFEST, OnnxRanker
    from recokit.table.folder import read_json

    try:
        manifest = read_json(path / MANIFEST)
    except OSError as error:
        raise FormatError(f"{path} is no ranker: it has no {MANIFEST}") from error
    is_exported = isinstance(manifest, dict) and manifest.get("format") == FORMAT
    try:
        if is_exported:
            return OnnxRanker.load(path, tables, allow_drift=allow_drift), f"{manifest.get('kind')} (ONNX)"
        from recokit.rankers.checkpoint import load_ranker

        ranker = load_ranker(path, tables, allow_drift=allow_drift)
        return ranker, ranker.kind
    except VersionError as error:
        raise VersionError(f"{error} (on the command line --tables STORE@NAME and --allow-drift)") from error
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependencyError("torch", extra="rank", needed_for=f"the ranker {path}") from error


def _tables(places: Sequence[str]) -> "Tables | None":
    """Open what stands where: a store, or the tables of versions and folders of tables."""
    from recokit.store import EmbeddingStore, open_source
    from recokit.table import FeatureTable, load_table

    if len(places) == 1 and not (Path(places[0]) / "version.json").is_file() and "@" not in Path(places[0]).name:
        store = EmbeddingStore(places[0])
        if store.versions():
            return store  # a ranker names the version that it wants
    found: list[FeatureTable] = []
    for place in places:
        if (Path(place) / "table.json").is_file():
            found.append(load_table(place))
        else:
            version = open_source(place)
            found += [version.open(name) for name in version.tables]
    return found or None


def _columns(text: str | None, features: "FeatureSpec") -> dict[str, str]:
    """Return what the frame calls each column of the ranker."""
    from recokit.scored_frames import read_columns

    names, said = {name: name for name in read_columns(features)}, set[str]()
    for pair in [] if text is None else text.split(","):
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            raise ConfigError(f"--columns: got {pair!r}, expected the ranker's name and the frame's: user_id=query")
        if name not in names:
            raise ConfigError(f"--columns: the ranker reads no column {name!r}; {closest(name, names)}")
        if name in said:
            raise ConfigError(f"--columns: {name!r} is said to be {names[name]!r} and {column!r}, expected once")
        said.add(name)
        names[name] = column
    return names


def _check_options(output: Path, top_k: int | None, block: int) -> None:
    import os

    if output.suffix != ".parquet":
        raise ConfigError(f"--output is {output}, expected a name that ends in .parquet")
    if os.path.lexists(output):
        raise VersionError(f"{output} exists already, and what is written is never changed: choose another name")
    for name, value in (("--top-k", top_k), ("--block", block)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}, expected at least 1")


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
