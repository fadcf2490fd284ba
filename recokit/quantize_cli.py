"""The subcommand ``recokit quantize``: a table's vectors as codes, or what codes of many sizes cost."""

__all__ = ["quantize"]

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recokit.cli import JsonFlag, emit, progress, text_table
from recokit.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from recokit.report import Report
    from recokit.table import EmbeddingTable


def quantize(
    path: Annotated[
        str, typer.Argument(metavar="VERSION|TABLE", help="A version, also a URL or STORE@NAME; or a table's folder.")
    ],
    *,
    table: Annotated[str | None, typer.Option(help="The table, where a version is given.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The folder of the new codes; with --sweep, a report: .json, .md or .html.")
    ] = None,
    sub_quantizers: Annotated[
        list[int] | None, typer.Option(help="Bytes of a row (16); with --sweep, several times (8, 16, 32, 64).")
    ] = None,
    codec: Annotated[
        list[str] | None, typer.Option(help="pq, opq or additive (pq); with --sweep, several times (all).")
    ] = None,
    codebook: Annotated[Path | None, typer.Option(help="Codes whose codebook is taken; none is trained.")] = None,
    train_rows: Annotated[int | None, typer.Option(help="Rows to train on (65536).")] = None,
    seed: Annotated[int, typer.Option(help="Of the rows to train on, of k-means, of a sweep's queries.")] = 0,
    threads: Annotated[int | None, typer.Option(help="For encoding (all that there are).")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Measure codecs and code sizes; write no codes.")] = False,
    queries: Annotated[int | None, typer.Option(help="Of a sweep: rows asked for their neighbours (1000).")] = None,
    k: Annotated[int | None, typer.Option("-k", help="Of a sweep: neighbours of each (10).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Of a sweep: recall against compression, .png or .svg.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Encode a table's vectors in a few bytes each, or measure what that costs in neighbours."""
    vectors = _vectors(path, table)
    if sweep:
        _refuse({"--codebook": codebook, "--train-rows": train_rows}, "does not go with --sweep")
        _sweep(
            vectors,
            {"sub_quantizers": sub_quantizers, "codecs": codec, "queries": queries, "k": k},
            seed=seed,
            threads=threads,
            output=output,
            plot=plot,
            as_json=as_json,
        )
        return
    _refuse({"--queries": queries, "-k": k, "--plot": plot}, "goes with --sweep alone")
    if output is None:
        raise ConfigError("--output is missing: the folder of the new codes")
    settings = {
        "sub_quantizers": _one(sub_quantizers, "--sub-quantizers"),
        "codec": _one(codec, "--codec"),
        "train_rows": train_rows,
    }
    _encode(vectors, settings, codebook, seed=seed, threads=threads, output=output, as_json=as_json)


def _encode(
    vectors: "EmbeddingTable",
    settings: dict[str, Any],
    codebook: Path | None,
    *,
    seed: int,
    threads: int | None,
    output: Path,
    as_json: bool,
) -> None:
    from recokit.pq import quantize as encode
    from recokit.table import PQTable

    started = time.perf_counter()
    taken = None if codebook is None else PQTable.load(codebook)
    with progress("encoding", vectors.count) as advance:
        codes = encode(vectors, **settings, seed=seed, codebook=taken, path=output, threads=threads, progress=advance)
    document = {
        "output": str(output),
        "entity": codes.entity,
        "version": codes.version,
        "count": codes.count,
        "dim": codes.dim,
        "codec": codes.codec,
        "bytes_per_row": codes.sub_quantizers,
        "num_codes": int(codes.codebook.shape[1]),
        "compression": round(codes.compression, 3),
        "codebook_sha256": codes.codebook_sha256,
        "seconds": round(time.perf_counter() - started, 3),
    }
    shown = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in document.items()]
    emit(document, as_json, text_table(f"codes of {codes.entity}", ("what", "value"), shown))


def _sweep(
    vectors: "EmbeddingTable",
    settings: dict[str, Any],
    *,
    seed: int,
    threads: int | None,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    from recokit.pq import compression_sweep, plot_sweep
    from recokit.pq.figure import matplotlib_figure

    if output is not None and output.suffix not in (".json", ".md", ".html"):  # before the work, not after it
        raise ConfigError(f"a report is saved as .json, .md or .html, not as {output.name!r}")
    if plot is not None:
        matplotlib_figure()
    given = {name: value for name, value in settings.items() if value is not None}
    with progress("settings") as advance:
        report = compression_sweep(vectors, **given, seed=seed, threads=threads, progress=advance)
    if output is not None:
        report.save(output)
    if plot is not None:
        plot_sweep(report, plot)
    emit(json.loads(report.to_json()), as_json, _sweep_table(report))


def _sweep_table(report: "Report") -> "Table":
    """Return a line for each setting, narrow enough for a terminal of 80 columns."""
    rows = report.to_frame()
    values = rows.pivot_table(index="name", columns="metric", values="value", sort=False)
    recall = next(name for name in map(str, values) if name.startswith("neighbor_recall@"))
    of_recall = rows[rows["metric"] == recall].set_index("name")
    width = ((of_recall["high"] - of_recall["low"]) / 2).to_dict()
    head = ("codes", recall.removeprefix("neighbor_"), "± 95 %", "error", "factor", "train s", "encode s")
    lines = [
        (
            str(name),
            f"{row[recall]:.3f}",
            f"{width[name]:.3f}",
            f"{row['relative_squared_error']:.4f}",
            f"{row['compression']:.1f}",
            f"{row.get('train_seconds', 0.0):.1f}",
            f"{row['encode_seconds']:.1f}",
        )
        for name, row in values.fillna(0.0).to_dict("index").items()
    ]
    return text_table(f"neighbours after compression: {report.results[0].protocol['table']}", head, lines)


def _vectors(path: str, table: str | None) -> "EmbeddingTable":
    """Open the vectors that are asked for."""
    from recokit.store import open_source
    from recokit.table import as_vectors, load_table

    folder = Path(path)
    if not folder.is_dir() or (folder / "version.json").is_file():
        version = open_source(path)
        if table is None:
            known = [name for name, entry in version.tables.items() if entry.kind == "vectors"]
            raise ConfigError(f"--table is missing: which one of version {version.name!r}; known: {', '.join(known)}")
        return as_vectors(version.open(table), "`recokit quantize`")
    _refuse({"--table": table}, f"goes with a version, which {path} is not")
    return as_vectors(load_table(folder), "`recokit quantize`")


def _one(given: "list[Any] | None", option: str) -> Any:
    """Return the one value of an option that may be given several times, or None."""
    if given is not None and len(given) > 1:
        raise ConfigError(f"{option} came {len(given)} times: several go with --sweep")
    return given[0] if given else None


def _refuse(options: dict[str, Any], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} {why}: leave it out")
