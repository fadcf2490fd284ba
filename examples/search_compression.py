"""How small may the vectors of a search ranker be?  Fig. 4b of TwHIN, with the ranker of examples/search_ranking.py.

    python examples/search_compression.py --data FOLDER [--seeds 3] [--part test|validation]
        [--ranker listwise|pointwise|dlrm] [--json FILE] [--markdown FILE] [--plot FILE]

Needs the extras pretrain, faiss and examples. The three tables of the search ranker (U_f, U_e and A, here of 256
dimensions) are product-quantized, each with a codebook of its own, and the ranker is trained anew with the codes in it,
which it decodes where it reads them (TwHIN, El-Kishky et al. 2022, 7.1). Sessions and measures are those of
examples/search_ranking.py; differences are to the same ranker on the float32 vectors, with the same seeds and networks.

compression  The true one: bytes of the float32 vectors over those of codes, codebooks and rotations, of the three
             tables together. It is far below 1,024 bytes over the bytes of a row: there are 1,900 users and 17,000
             artists, and a codebook of 256 codes is as large as 16,384 rows of 16 bytes. OPQ has a rotation of another
             256 KiB a table, and additive codes have a codebook of 256 KiB a byte: of all this a table of millions of
             rows would feel nothing, so that for such tables the bytes of a row are the better guide.
controls     float16; no vectors at all (the baseline); and the codes of 16 bytes dealt out to the wrong ids, which have
             to fall to the baseline if it is the vectors that count.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from loaders import lastfm
from outputs import Rows, save, show
from rich.console import Console
from search_ranking import (
    ALL,
    BASELINE,
    METRICS,
    Part,
    Runs,
    Search,
    System,
    cell,
    compare,
    figures,
    make_parser,
    measured,
    networks,
    prepare,
    rank,
    say,
    spec,
)

from recokit import EmbeddingTable, PQTable, Report, quantize
from recokit.ablation import Ablation
from recokit.evaluate.measured import Measured
from recokit.table import FeatureTable
from recokit.table.codes import Codec

DIM = 256
FLOAT32, FLOAT16, SHUFFLED = "float32", "float16", "pq, 16 bytes, shuffled"


@dataclass(frozen=True)
class Codes:
    """How vectors become codes.

    Attributes:
        codec: How centroids make a vector.
        size: Bytes of a row.
        train_rows: Rows that a codebook is trained on, 39 a code, so that fewer rows make a smaller codebook; None for
            all: 256 codes of artists, 32 of users.
    """

    codec: Codec
    size: int
    train_rows: int | None = None


CODES: Mapping[str, Codes] = {
    **{f"pq, {size} bytes": Codes("pq", size) for size in (256, 128, 64, 32, 16, 8)},
    "pq, 8 bytes of 64 codes": Codes("pq", 8, 64 * 39),
    **{f"opq, {size} bytes": Codes("opq", size) for size in (16, 8)},
    **{f"additive, {size} bytes": Codes("additive", size) for size in (4,)},
}


@dataclass(frozen=True)
class Size:
    """How large the vectors of a system are.

    Attributes:
        compression: Bytes of the float32 vectors of all tables over those that are stored.
        row: Bytes of a row, codebooks left aside.
    """

    compression: float
    row: int


def run_codes(
    search: Search, *, seeds: Iterable[int], folder: Path, kind: str, part: str, console: Console | None = None
) -> tuple[Runs, dict[str, Size]]:
    """Train the ranker on every form of the vectors, once a seed, and measure it."""
    runs: dict[str, list[dict[Part, Measured]]] = {name: [] for name in (FLOAT32, FLOAT16, *CODES, SHUFFLED, BASELINE)}
    sizes = {}
    for seed in seeds:
        tables = networks(search.data, seed=seed, dim=DIM, folder=folder)
        for name, done in runs.items():
            used = forms(tables, name, seed)
            sizes[name] = Size(compression(tables, used), row_bytes(used))
            features = spec(search, System(ALL if used else ()), used)
            done.append(measured(search, part, rank(search, features, kind=kind, seed=seed, part=part)))
            say(console, f"seed {seed}, {name}, {sizes[name].compression:.1f}x", done[-1])
    return runs, sizes


def forms(tables: Mapping[str, EmbeddingTable], name: str, seed: int) -> dict[str, FeatureTable]:
    """Return the tables in the form that ``name`` says; none for the baseline."""
    if name == BASELINE:
        return {}
    if name == FLOAT32:
        return dict(tables)
    if name == FLOAT16:
        return {key: half(table) for key, table in tables.items()}
    how = CODES[name.removesuffix(", shuffled")]
    # Vectors keep their lengths, as the ranker has them in float32.
    codes = {
        key: quantize(table, how.size, codec=how.codec, train_rows=how.train_rows, normalize=False)
        for key, table in tables.items()
    }
    return {key: shuffled_codes(each, seed) for key, each in codes.items()} if name == SHUFFLED else dict(codes)


def half(table: EmbeddingTable) -> EmbeddingTable:
    """Store the vectors as float16."""
    return EmbeddingTable.from_arrays(
        table.ids, table.vectors.astype(np.float16), entity=table.entity, version=table.version
    )


def shuffled_codes(table: PQTable, seed: int) -> PQTable:
    """Deal the codes out to other ids."""
    codes = table.codes[np.random.default_rng(seed).permutation(table.count)]
    return PQTable.from_arrays(
        table.ids, codes, table.codebook, entity=table.entity, version=f"{table.version}, shuffled", codec=table.codec
    )


def compression(tables: Mapping[str, EmbeddingTable], used: Mapping[str, FeatureTable]) -> float:
    """Return the bytes of all float32 vectors over those of what is used; infinity of nothing."""
    plain = sum(4 * table.count * table.dim for table in tables.values())
    return plain / sum(map(stored_bytes, used.values())) if used else float("inf")


def stored_bytes(table: FeatureTable) -> int:
    """Count the bytes of vectors, or of codes, codebook and rotation; ids, which every form has, are not among them."""
    if isinstance(table, PQTable):
        rotation = 0 if table.rotation is None else table.rotation.nbytes
        return table.codes.nbytes + table.codebook.nbytes + rotation
    return table.vectors.nbytes


def row_bytes(used: Mapping[str, FeatureTable]) -> int:
    """Count the bytes of one row of each table, which are the same for all three; 0 of none."""
    each = {t.sub_quantizers if isinstance(t, PQTable) else t.vectors.itemsize * t.dim for t in used.values()}
    return max(each, default=0)


def sizes_table(found: Ablation, sizes: Mapping[str, Size]) -> Rows:
    """Put what the vectors take before what the ranker has of them."""
    head, *rows = figures(found)
    table = [("vectors", "true compression", "bytes a row", *head[1:])]
    for name, *cells in rows:
        table.append((name, f"{sizes[name].compression:.1f}", str(sizes[name].row), *cells))
    return table


def plot(found: Ablation, sizes: Mapping[str, Size], path: Path) -> None:
    """Draw both measures over the true compression; lines stand for float32 and for no vectors at all."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), METRICS, strict=True):
        for name, color in ((FLOAT32, "0.2"), (BASELINE, "0.5"), (SHUFFLED, "0.8")):
            axes.axhline(cell(found, name, metric).mean, color=color, label=name)
        for codec in dict.fromkeys(how.codec for how in CODES.values()):
            names = sorted((n for n in CODES if CODES[n].codec == codec), key=lambda n: sizes[n].compression)
            cells = [cell(found, name, metric) for name in names]
            ratios, spread = [sizes[name].compression for name in names], [c.deviation for c in cells]
            axes.errorbar(ratios, [c.mean for c in cells], spread, marker="o", capsize=3, label=codec)
        axes.set(xscale="log", xlabel="true compression", title=metric)
        axes.set_xticks(
            [ratio for ratio in (4, 8, 16, 32, 64) if ratio <= max(sizes[name].compression for name in CODES)]
        )
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend()
    figure.savefig(path, dpi=150)


def main(words: Sequence[str] | None = None) -> Report:
    options = make_parser(__doc__).parse_args(words)
    console, seeds = Console(), tuple(range(options.seeds))
    search = prepare(lastfm.load(options.data))
    with tempfile.TemporaryDirectory() as folder:
        runs, sizes = run_codes(
            search, seeds=seeds, folder=Path(folder), kind=options.ranker, part=options.part, console=console
        )
    protocol = {**search.protocol, "ranker": options.ranker, "part": options.part, "dim": str(DIM)}
    adds = {name: () if name == BASELINE else ALL for name in runs}
    found = compare(runs, adds, baseline=FLOAT32, seeds=seeds, protocol=protocol)
    rows = sizes_table(found, sizes)
    show(console, f"search ranker with compressed vectors, {options.part} part", rows, protocol)
    save(options, found.report, rows)
    if options.plot:
        plot(found, sizes, options.plot)
    return found.report


if __name__ == "__main__":
    main()
