"""Which artists does a searcher pick?  A ranker of search results with and without embeddings, as in TwHIN's Table 3.

    python examples/search_ranking.py --data FOLDER [--seeds 3] [--part test|validation]
        [--ranker listwise|pointwise|dlrm] [--json FILE] [--markdown FILE] [--plot FILE]

FOLDER holds the five files of HetRec 2011 Last.FM, see examples/loaders/lastfm.py. Needs the extras pretrain and
examples. Table 3 of TwHIN (El-Kishky et al. 2022) asks what vectors of the searcher, from follows (U_f) and from
engagements (U_e), and of the author (A) add to a ranker of search results. What is measured here:

sessions    A user gives artists a tag on a day, which is taken for a search: the tag is the query, the artists that got
            it were picked. By time, with cuts at 2009-11, 2010-06 and 2010-08: the networks' rows, the ranker's, its
            validation's, the test's. See examples/loaders/tagging.py.
candidates  The 50 artists that the networks' rows have most often under the tag, without those that the networks know
            of the user: the same for all systems, and made before any of them. A pick that is not shown is in no
            measure, nor is a session without a shown pick; the protocol says how many that are. So the figures are
            about ranking alone. Floors of the whole catalogue stand apart.
leaks       Listens have no date. The listens and earlier tags of every pair of user and artist that is picked in a
            later part are in no network and in no count, and pairs that are known are not shown, so that being known
            tells nothing about a pick. Friendships have no date either, and are all there.
baseline    Counts of the networks' rows: the artist's under this tag and its place in what is shown, under all tags,
            among listeners; the query's; the user's; texts: character n-grams of tag names for the query, for the
            artist the mean of its tags, and their cosine.
vectors     U_f from friendships alone; U_e and A from listens and tags. Every seed trains them anew.
rivals      The baseline with trainable vectors of users, artists and tags; with one more count, the score of EASE for
            user and artist, or the cosine U_e · A that the vectors themselves have; and with all three tables whose
            vectors are dealt out to the wrong ids, which is what more weights do by themselves. Without a ranker: what
            is shown as it is, EASE alone, U_e · A alone.
validation  Rankers stop by its loss and settings were chosen on it, so that figures of --part validation are too good.
measures    MAP and ROC-AUC within sessions, means over sessions, expected values over ties. Differences are paired, and
            users are resampled: sessions of one user are not independent.
"""

import argparse
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from loaders import lastfm, tagging
from outputs import Rows, add_outputs, save, show
from rich.console import Console
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from pretrain import Graph, Relation, TrainConfig, export, train
from recokit import EmbeddingTable, FeatureSpec, Pretrained, Report, evaluate_candidates
from recokit.ablation import Ablation, Cell, compare_sets
from recokit.evaluate.measured import Measured, measure, said_of_intervals
from recokit.floors import EASE
from recokit.metrics import Rankings, average_precision_at_k, group_auc
from recokit.rankers import DLRM, FitConfig, Ranker, SearchRanker, fit
from recokit.report import seed_table
from recokit.table import FeatureTable, as_vectors
from recokit.text import text_table

Floats: TypeAlias = npt.NDArray[np.float64]
Part: TypeAlias = str | None  # of the searchers that are measured; None for all
Runs: TypeAlias = Mapping[str, Sequence[Mapping[Part, Measured]]]  # of each seed, by system
SHOWN, DEPTH = 50, 300  # artists a query, and how many of the tag are looked through for them
METRICS = ("map", "group_auc")
LISTED = 100  # artists, where the whole catalogue is ranked
SAMPLES = 1000  # of users
VECTORS = {"U_f": "user", "U_e": "user", "A": "artist"}  # to the column that is looked up
RANKERS = ("listwise", "pointwise", "dlrm")
SEEN, NEW = "searchers of the ranker's rows", "new searchers"

# Chosen on --part validation, seeds 0 to 2, the ranker's for the baseline and for all vectors alike, among
#   networks    temperatures .1 to .25; learning rates .05 to .2; 20 and 40 epochs; tag weights .1 and .3; 32 to 256
#               dimensions, of which 64 are enough; by the ranking of U_e · A alone
#   EASE        l2 of 30 to 10,000
#   rankers     dimensions 16 to 64; learning rates .0003 to .003; weight decays .01 to 3; products of pairs dot and
#               hadamard; two sizes of the network; batches of 1024 and 4096 rows
FOLLOWS = TrainConfig(
    operator="identity", comparator="cos", loss="softmax", temperature=0.16, learning_rate=0.2, epochs=40,
    schedule="linear", uniform_negatives=500, precision="auto",
)  # fmt: skip
ENGAGEMENTS = replace(FOLLOWS, sides="target")
TAG_WEIGHT = 0.3  # of the relations with tags; listens and tagged artists weigh 1
DIM = 64
TEXT_DIM = 32
RIDGE = 1000.0  # of EASE
RANKER_DIM, HIDDEN = 16, (64, 32)
CONFIG = FitConfig(epochs=8, batch_size=1024, learning_rate=1e-3, weight_decay=1.0, evaluate_every=96, patience=4)

COUNTS = (
    "tag_count", "place", "share_of_artist", "artist_tags", "artist_names", "artist_listeners", "query_tags",
    "user_tags", "user_names", "user_listens", "user_query", "similarity",
)  # fmt: skip


@dataclass(frozen=True)
class System:
    """What a ranker reads besides the baseline's features.

    Attributes:
        vectors: Names of pretrained tables.
        ids: Whether users, artists and tags have trainable vectors.
        counts: Scores of user and artist that are one more count: EASE's, and the cosine of U_e and A.
        shuffled: Whether the vectors of a table are dealt out to the wrong ids.
    """

    vectors: tuple[str, ...] = ()
    ids: bool = False
    counts: tuple[str, ...] = ()
    shuffled: bool = False

    @property
    def adds(self) -> tuple[str, ...]:
        """Names of what is added, for reports."""
        vectors = tuple(f"{name}, shuffled" for name in self.vectors) if self.shuffled else self.vectors
        return (*vectors, *self.counts, *(("user", "artist", "tag") if self.ids else ()))


BASELINE = "baseline"
ALL = tuple(VECTORS)
FULL = "+U_f+U_e+A"
SYSTEMS: Mapping[str, System] = {
    BASELINE: System(),
    "+U_f": System(("U_f",)),
    "+U_e": System(("U_e",)),
    "+A": System(("A",)),
    "+U_f+U_e": System(("U_f", "U_e")),
    FULL: System(ALL),
}
RIVALS: Mapping[str, System] = {
    "+trainable ids": System(ids=True),
    "+EASE": System(counts=("ease",)),
    "+U_e · A": System(counts=("dot",)),
    f"{FULL}, shuffled": System(ALL, shuffled=True),
    f"{FULL}+EASE": System(ALL, counts=("ease",)),
    f"{FULL}+U_e · A": System(ALL, counts=("dot",)),
}
FLOORS = ("as shown", "EASE alone", "U_e · A alone")


@dataclass(frozen=True)
class Search:
    """Sessions with the baseline's features, by part, and what is known before them.

    Attributes:
        data: The network's rows, and everybody's picks.
        rows: Part to its sessions: what the loader says, ``COUNTS`` and ``ease``.
        query: Vectors of tags by their names.
        content: Vectors of artists by the names of their tags.
        protocol: How all this came about.
    """

    data: tagging.Tagging
    rows: Mapping[str, pd.DataFrame]
    query: EmbeddingTable
    content: EmbeddingTable
    protocol: Mapping[str, str]


def prepare(raw: lastfm.LastFm, *, parts: Iterable[str] = tagging.PARTS) -> Search:
    """Split the tags, make the texts' vectors and the sessions of some parts; nothing here depends on a seed."""
    data = tagging.split(raw)
    query = query_vectors(data)
    content = content_vectors(data, query)
    ease = EASE.fit(data.known.set_axis(["query", "candidate"], axis=1), l2=RIDGE, dtype="float32")
    rows = {}
    for part in parts:
        shown = tagging.sessions(data, part, num=SHOWN, depth=DEPTH)
        rows[part] = describe(shown, data, query, content).assign(ease=ease_scores(shown, ease))
    return Search(data, rows, query, content, _protocol(data, rows))


def query_vectors(data: tagging.Tagging) -> EmbeddingTable:
    """Return unit vectors of all tag names: character n-grams weighted and reduced as the network's tags have them."""
    names = data.tag_names.rename(columns={"tag": "id", "name": "text"})
    known = names.loc[names["id"].isin(data.tags["tag"]), "text"]
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=2)
    encoder = make_pipeline(pieces, TruncatedSVD(min(TEXT_DIM, len(known) - 1), random_state=0)).fit(known)
    # Not of the entity type tag: which tags a user or an artist had before is no leak, it is what is counted too.
    return text_table(names, lambda texts: unit(encoder.transform(texts)), entity="query", version="names")


def content_vectors(data: tagging.Tagging, query: EmbeddingTable) -> EmbeddingTable:
    """Return unit vectors of the network's artists: the mean of their tags' vectors, by the logarithms of counts."""
    counts = data.tags.groupby(["artist", "tag"]).size().rename("count").reset_index()
    weighted = np.log1p(counts["count"].to_numpy())[:, None] * query.vectors[query.rows(counts["tag"].to_numpy())]
    summed = pd.DataFrame(weighted).groupby(counts["artist"]).sum()
    return EmbeddingTable.from_arrays(
        summed.index.to_numpy(), unit(summed.to_numpy()), entity="artist", version="names", comparator="cos"
    )


def unit(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Bring rows to length 1; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros(vectors.shape), where=length > 0.0).astype(np.float32)


def describe(
    shown: pd.DataFrame, data: tagging.Tagging, query: EmbeddingTable, content: EmbeddingTable
) -> pd.DataFrame:
    """Add the baseline's features, all from what the network may know."""
    tags, listens = data.tags, data.listens
    made = {
        "tag_count": np.log1p(shown["count"]),
        "place": np.log(shown["place"]),
        "artist_tags": _log_count(shown, tags, "artist"),
        "artist_names": _log_count(shown, tags.drop_duplicates(["artist", "tag"]), "artist"),
        "artist_listeners": _log_count(shown, listens, "artist"),
        "query_tags": _log_count(shown, tags, "tag"),
        "user_tags": _log_count(shown, tags, "user"),
        "user_names": _log_count(shown, tags.drop_duplicates(["user", "tag"]), "user"),
        "user_listens": _log_count(shown, listens, "user"),
        "user_query": _log_count(shown, tags, "user", "tag"),
        "similarity": cosine(shown, ("tag", query), ("artist", content)),
    }
    made["share_of_artist"] = shown["count"] / np.expm1(made["artist_tags"])
    return shown.assign(**made)


def _log_count(rows: pd.DataFrame, log: pd.DataFrame, *by: str) -> Floats:
    """log(1 + the rows of ``log`` with a row's own values in the columns ``by``)."""
    sizes = log.groupby(list(by)).size().rename("size").reset_index()
    found = rows[list(by)].merge(sizes, on=list(by), how="left")["size"]
    return np.log1p(found.fillna(0.0).to_numpy(np.float64))


def cosine(rows: pd.DataFrame, a: tuple[str, EmbeddingTable], b: tuple[str, EmbeddingTable]) -> Floats:
    """Return the cosine of the vectors of two columns' ids, 0 where one has none."""
    found = []
    for column, table in (a, b):
        vectors = np.vstack([unit(np.asarray(table.vectors)), np.zeros((1, table.dim), np.float32)])
        found.append(vectors[table.rows(rows[column].to_numpy())])  # -1: the zeros
    return np.einsum("ij,ij->i", *found, dtype=np.float64)


def ease_scores(rows: pd.DataFrame, ease: EASE) -> Floats:
    """Return what EASE says of user and artist, 0 where it does not know both."""
    projected = ease.matrix @ ease.inverse if ease.side == "items" else (ease.matrix.T @ ease.inverse).T
    scores = ease.matrix.toarray() - projected / ease.diagonal
    user, artist = ease.queries.get_indexer(rows["user"]), ease.items.get_indexer(rows["artist"])
    return np.where((user >= 0) & (artist >= 0), scores[user, artist], 0.0).astype(np.float64)


def _protocol(data: tagging.Tagging, rows: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Say what is measured, and what is not."""
    said = {
        "split": "by time: " + ", ".join(f"{cut:%Y-%m-%d}" for cut in tagging.CUTS[1:]),
        "candidates": f"the {SHOWN} artists that the network's rows have most often under the tag, new to the user",
        "leaks": f"{data.removed[0]} tags and {data.removed[1]} listens of later picks are in no network and no count",
    }
    for part, frame in rows.items():
        picks = data.picks[part]
        asked = len(picks[list(tagging.QUERY)].drop_duplicates())
        said[part] = (
            f"{frame['session'].nunique()} of {asked} sessions and {int(frame['picked'].sum())} of {len(picks)} picks "
            f"are shown, {frame['user'].nunique()} searchers"
        )
    return said


def networks(data: tagging.Tagging, *, seed: int, dim: int, folder: Path) -> dict[str, EmbeddingTable]:
    """Train the network of friends and the network of engagements, and export them below ``folder``."""
    friends = train(follow_graph(data), replace(FOLLOWS, dim=dim, seed=seed))
    engaged = train(engagement_graph(data), replace(ENGAGEMENTS, dim=dim, seed=seed))
    follows, engagements = (
        export(model, folder / f"{name}-{dim}-{seed}") for name, model in (("follows", friends), ("engages", engaged))
    )
    return {"U_f": follows.table("user"), "U_e": engagements.table("user"), "A": engagements.table("artist")}


def follow_graph(data: tagging.Tagging) -> Graph:
    """Friendships alone."""
    return Graph.from_frames({"friends": _edges(data.friends, "user", "friend")}, [Relation("friends", "user", "user")])


def engagement_graph(data: tagging.Tagging) -> Graph:
    """Listens, tagged artists, and which tags users have given and artists got."""
    frames = {
        "listens": _edges(data.listens, "user", "artist"),
        "tags": _edges(data.tags.drop_duplicates(["user", "artist"]), "user", "artist"),
    }
    relations = [Relation(name, "user", "artist") for name in frames]
    for end in ("user", "artist"):
        counts = data.tags.groupby([end, "tag"], as_index=False).size()
        weight = np.log1p(counts["size"])
        frames[f"{end}_tag"] = _edges(counts, end, "tag").assign(weight=weight / weight.mean())
        relations.append(Relation(f"{end}_tag", end, "tag", weight=TAG_WEIGHT))
    return Graph.from_frames(frames, relations)


def _edges(frame: pd.DataFrame, source: str, target: str) -> pd.DataFrame:
    return frame[[source, target]].set_axis(["source", "target"], axis=1)


def spec(search: Search, system: System, tables: Mapping[str, FeatureTable], *, seed: int = 0) -> FeatureSpec:
    """Return what a system reads: the baseline's features and texts, and what it adds."""
    added = {name: tables[name] for name in system.vectors}
    if system.shuffled:
        added = {name: shuffled(table, seed) for name, table in added.items()}
    ids = dict.fromkeys(("user", "artist", "tag"), len(search.rows["ranker"]))  # as many as there are
    return FeatureSpec(
        pretrained=[
            Pretrained("tag", search.query, name="query"),
            Pretrained("artist", search.content, name="content"),
            *(Pretrained(VECTORS[name], table, name=name) for name, table in added.items()),
        ],
        dense=[*COUNTS, *system.counts],
        categorical=ids if system.ids else {},
        label="picked",
        group="session",
    )


def shuffled(table: FeatureTable, seed: int) -> EmbeddingTable:
    """Deal the vectors out to other ids."""
    table = as_vectors(table, "shuffled")
    order = np.random.default_rng(seed).permutation(table.count)
    return EmbeddingTable.from_arrays(
        table.ids, table.vectors[order], entity=table.entity, version=f"{table.version}, shuffled"
    )


def make_ranker(kind: str, features: FeatureSpec, seed: int) -> Ranker:
    """Return an untrained ranker of one of ``RANKERS``."""
    if kind == "dlrm":
        return DLRM(features, dim=RANKER_DIM, top=HIDDEN, seed=seed)
    loss = "listwise" if kind == "listwise" else "pointwise"
    return SearchRanker(features, dim=RANKER_DIM, hidden=HIDDEN, loss=loss, seed=seed)


def rank(search: Search, features: FeatureSpec, *, kind: str, seed: int, part: str) -> Floats:
    """Train a ranker on the ranker's rows, stop it on the validation's, and return what it says of a part's rows."""
    ranker = make_ranker(kind, features, seed)
    fit(ranker, search.rows["ranker"], search.rows["validation"], replace(CONFIG, seed=seed))
    return ranker.predict(search.rows[part])


def measured(search: Search, part: str, scores: Floats, samples: int = SAMPLES) -> dict[Part, Measured]:
    """Measure what was said of a part's rows: of all searchers, of those the ranker has seen, of those it has not.

    Intervals resample users.
    """
    rows = search.rows[part]
    lists = Rankings.from_scores(rows["picked"], scores, rows["session"])
    areas = group_auc(rows["picked"], scores, rows["session"])
    values = pd.DataFrame({"map": pd.Series(average_precision_at_k(lists), index=lists.queries)})
    values["group_auc"] = pd.Series(areas.values, index=areas.groups)  # NaN where all that is shown was picked
    values["user"] = rows.drop_duplicates("session").set_index("session")["user"]
    seen = values["user"].isin(search.rows["ranker"]["user"])
    parts = {None: values, SEEN: values[seen], NEW: values[~seen]}
    return {name: _means(each, samples) for name, each in parts.items() if len(each)}


def _means(sessions: pd.DataFrame, samples: int) -> Measured:
    matrix = sessions[list(METRICS)].to_numpy(np.float64).T  # (M, sessions)
    there = ~np.isnan(matrix)
    matrix = np.where(there, matrix, 0.0)

    def means(times: Floats) -> Floats:
        total: Floats = np.einsum("s,ms->m", times, matrix) / np.einsum("s,ms->m", times, there.astype(np.float64))
        return total

    users = pd.factorize(sessions["user"])[0].astype(np.int64)
    counts = there.sum(axis=1).tolist()
    return measure(means, len(sessions), metrics=METRICS, counts=counts, samples=samples, groups=users)


def run_systems(
    search: Search, *, seeds: Iterable[int], folder: Path, kind: str, part: str, console: Console | None = None
) -> Runs:
    """Every system and every seed, with networks and rankers trained anew; and what needs no ranker."""
    runs: dict[str, list[Mapping[Part, Measured]]] = {name: [] for name in (*SYSTEMS, *RIVALS, *FLOORS)}
    for seed in seeds:
        tables = networks(search.data, seed=seed, dim=DIM, folder=folder)
        seen = with_dots(search, tables)
        rows = seen.rows[part]
        scores = dict(zip(FLOORS, (-rows["place"], rows["ease"], rows["dot"]), strict=True))
        for name, done in runs.items():
            system = SYSTEMS.get(name) or RIVALS.get(name)
            if system is not None:
                scores[name] = rank(seen, spec(seen, system, tables, seed=seed), kind=kind, seed=seed, part=part)
            done.append(measured(seen, part, np.asarray(scores[name], np.float64)))
            say(console, f"seed {seed}, {name}", done[-1])
    return runs


def with_dots(search: Search, tables: Mapping[str, EmbeddingTable]) -> Search:
    """Add the cosine of U_e and A to all rows, as the column ``dot``."""
    ends = ("user", tables["U_e"]), ("artist", tables["A"])
    return replace(search, rows={part: rows.assign(dot=cosine(rows, *ends)) for part, rows in search.rows.items()})


def compare(
    runs: Runs,
    adds: Mapping[str, Sequence[str]],
    *,
    baseline: str,
    seeds: Sequence[int],
    protocol: Mapping[str, object],
) -> Ablation:
    """Put systems side by side, each with its difference to ``baseline``; ``adds`` says what each of them reads."""
    said = {**protocol, "ties": "expected value", "interval": said_of_intervals("users", SAMPLES)}
    return compare_sets(
        {("", name): {part: [run[part] for run in runs[name]] for part in runs[name][0]} for name in adds},
        sets=adds,
        always=("query", "content", *COUNTS),
        baseline=baseline,
        seeds=seeds,
        protocol=dict.fromkeys((None, SEEN, NEW), said),
        leaks=(),
    )


def say(console: Console | None, name: str, found: Mapping[Part, Measured]) -> None:
    """Print one run as it ends."""
    if console:
        every = found[None]
        values = ", ".join(f"{metric} {value:.4f}" for metric, value in zip(every.metrics, every.values, strict=True))
        console.print(f"{name}: {values}")


def catalogue_floors(raw: lastfm.LastFm) -> Report:
    """Rank the whole catalogue at (user, tag) of the test part: what the shown candidates leave out, and what leaks.

    Artists by how often they had the tag before the test, then by id; or the user's listens first, whose dates nobody
    knows: of the artists that a user tags later most are among them.
    """
    history = raw.tags[raw.tags["time"] >= tagging.CUTS[0]]
    before, test = history[history["time"] < tagging.CUTS[-1]], history[history["time"] >= tagging.CUTS[-1]]
    asked = test[["user", "tag"]].drop_duplicates(ignore_index=True)
    asked["query"] = asked.index
    relevant = test.merge(asked, on=["user", "tag"])[["query", "artist"]].set_axis(["query", "candidate"], axis=1)
    counts = before.groupby(["tag", "artist"], as_index=False).size()
    listed = asked.merge(counts, on="tag").merge(raw.listens, on=["user", "artist"], how="left")
    report = Report([])
    for name, boost in (("tag popularity", 0.0), ("tag popularity, own listens first (leaks)", 1.0)):
        score = listed["size"] + boost * listed["count"].notna() * (1 + listed["size"].max())
        lists = listed.assign(score=score).sort_values(["query", "score", "artist"], ascending=[True, False, True])
        lists["rank"] = lists.groupby("query").cumcount() + 1
        lists = lists.loc[lists["rank"] <= LISTED, ["query", "artist", "score", "rank"]]
        report |= evaluate_candidates(
            lists.rename(columns={"artist": "candidate"}),
            relevant,
            k=10,
            name=name,
            protocol={"queries": "(user, tag) of the test part", "candidates": f"all artists, lists of {LISTED}"},
        )
    return report


def figures(found: Ablation, part: Part = None) -> Rows:
    """Every system's measures, mean ± deviation over seeds, and their differences to the baseline."""
    head = ("", *METRICS, *(f"{metric} - {found.baseline}" for metric in METRICS))
    table: list[tuple[str, ...]] = [head]
    for name in found.sets:
        cells = [cell(found, name, metric, part) for metric in METRICS]
        spread = [f" ± {each.deviation:.4f}" if len(each.values) > 1 else "" for each in cells]
        less = [f"{each.difference:+.4f} [{each.low:+.4f}, {each.high:+.4f}]" for each in cells]
        values = [f"{each.mean:.4f}{ends}" for each, ends in zip(cells, spread, strict=True)]
        table.append((name, *values, *([""] * len(less) if name == found.baseline else less)))
    return table


def cell(found: Ablation, name: str, metric: str, part: Part = None) -> Cell:
    """Return the figures of one system for some searchers."""
    return next(each for each in found.cells if (each.set, each.metric, each.part) == (name, metric, part))


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of this example and of examples/search_compression.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the five files")
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--ranker", choices=RANKERS, default=RANKERS[0])
    parser.add_argument("--seeds", type=int, default=3)
    add_outputs(parser, "json", "markdown", "plot")
    return parser


def main(words: Sequence[str] | None = None) -> Report:
    options = make_parser(__doc__).parse_args(words)
    console, raw, seeds = Console(), lastfm.load(options.data), tuple(range(options.seeds))
    search = prepare(raw)
    protocol = {**search.protocol, "ranker": options.ranker, "part": options.part}
    with tempfile.TemporaryDirectory() as folder:
        runs = run_systems(
            search, seeds=seeds, folder=Path(folder), kind=options.ranker, part=options.part, console=console
        )
    adds = {name: system.adds for name, system in {**SYSTEMS, **RIVALS}.items()} | dict.fromkeys(FLOORS, ())
    table3 = compare(runs, {name: adds[name] for name in SYSTEMS}, baseline=BASELINE, seeds=seeds, protocol=protocol)
    others = [FULL, "+U_f+U_e", BASELINE, *RIVALS, *FLOORS]
    rivals = compare(runs, {name: adds[name] for name in others}, baseline=FULL, seeds=seeds, protocol=protocol)
    report, tables = table3.report | rivals.report, {}
    for part in dict.fromkeys(each.part for each in table3.cells):
        who = part or "all searchers"
        tables[f"Table 3, {options.part} part, {who}"] = figures(table3, part)
        tables[f"rivals, {options.part} part, {who}"] = figures(rivals, part)
    if options.part == "test":
        floors = catalogue_floors(raw)
        tables["the whole catalogue"] = seed_table(floors, ("mrr", "recall@10"))
        report |= floors
    for title, rows in tables.items():
        show(console, title, rows, {})
    for key, value in protocol.items():
        console.print(f"{key}: {value}")
    save(options, report, *tables.values())
    if options.plot:
        table3.plot(options.plot)
    return report


if __name__ == "__main__":
    main()
