"""Held-out pairs found through a relation, beside what is popular: recall at k by exact search."""

__all__ = ["LinkPrediction"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recokit.candidates import CandidateGenerator
from recokit.errors import ConfigError, DataError, closest
from recokit.floors import EASE, ItemKNN, Popularity
from recokit.frame.columns import with_ids
from recokit.frame.reading import Source, read_frame
from recokit.metrics import Rankings, recall_at_k
from recokit.metrics.arrays import Floats, at_least_one
from recokit.overlap import find_overlaps
from recokit.probes.degrees import degrees_of
from recokit.probes.labels import known_entities, said_ids
from recokit.probes.subjects import FLOOR_NAMES, random_vectors
from recokit.probes.task import Bench, Measure, Outcome, Rivals, Subject
from recokit.table import EmbeddingTable, FeatureTable, Mixture, PQTable, RelationParameters, Version

if TYPE_CHECKING:
    from recokit.table.relations import Side

_FLOORS: Mapping[str, type[ItemKNN] | type[EASE]] = dict(zip(FLOOR_NAMES, (ItemKNN, EASE), strict=True))


@dataclass(frozen=True)
class LinkPrediction:
    """Recall of held-out pairs of a relation among each source's best targets, by exact search.

    Attributes:
        name: What the report calls it; the metric is ``"recall@<k>"``, its ``group`` the relation.
        relation: The relation of the version.
        pairs: Columns query and candidate, held out of training; a frame or a file.
        exclude: Pairs that are not searched for, such as those trained on; the baseline ``degree`` counts their
            candidates.
        columns: What both frames call them.
        k: Cut-offs.
        source: The table of the sources, where it is not the relation's own: codes, say.
        target: The table of the targets.
        sample: Queries at most, drawn by the seed.
        floors: Compare with ItemKNN and EASE too, which learn from the excluded pairs and need no vectors.

    A source that the table lacks counts 0, and so does what a target that it lacks would have brought. Mixtures are
    searched by component. The baseline ``degree`` is popularity, the same list for everybody; under ``shuffled``, both
    tables' vectors are given to other ids; under ``random``, both are random and the relation is left out.
    """

    name: str
    relation: str
    pairs: Source
    exclude: "Source | None" = None
    columns: Mapping[str, str] = field(default_factory=dict)
    k: int | Sequence[int] = 10
    source: str | None = None
    target: str | None = None
    sample: int = 10_000
    floors: bool = False

    def __post_init__(self) -> None:
        for cut in self.cuts:
            at_least_one(cut)
        at_least_one(self.sample, "sample")
        if self.floors and self.exclude is None:
            raise ConfigError("floors need exclude: the pairs that they learn from")

    @property
    def cuts(self) -> tuple[int, ...]:
        """The cut-offs, ascending."""
        return tuple(sorted(set(self.k))) if isinstance(self.k, Sequence) else (self.k,)

    def prepare(self, bench: Bench) -> Measure | Rivals:
        """Read the pairs and draw the queries."""
        relation = _relation(bench, self.relation)
        source, target = self._table(bench, "source"), self._table(bench, "target")
        queries, items = bench.table(source), bench.table(target)
        relevant = self._read(self.pairs, queries, items)
        seen = None if self.exclude is None else self._read(self.exclude, queries, items)
        if seen is not None and (lost := len(relevant.merge(seen.drop_duplicates(), on=["query", "candidate"]))):
            raise DataError(
                f"{self.name}: {lost} of {len(relevant)} held-out pairs are excluded and could never be found"
            )
        known_entities(relevant["query"], bench, source, len(relevant))  # an error where none is known
        asked = relevant["query"].drop_duplicates()
        if len(asked) > self.sample:
            asked = asked.sample(self.sample, random_state=bench.seed)
            relevant = relevant[relevant["query"].isin(asked)]
        lacking = relevant["candidate"][items.rows(relevant["candidate"]) < 0]
        unknown = asked[queries.rows(asked) < 0]
        said: dict[str, Any] = {
            "task": self.name,
            "kind": "link",
            "relation": self.relation,
            "coverage": f"{len(asked) - len(unknown)} of {len(asked)} queries are in {source}, "
            f"{len(relevant) - len(lacking)} of {len(relevant)} pairs have their candidate in {target}",
            "filter": "none" if seen is None else f"{len(seen)} pairs are not searched for",
            "search": "exact",
        }
        if len(unknown) or len(lacking):
            said["missing_ids"] = f"such as {said_ids([*unknown[:2], *lacking[:2]])}"
        if trained := _trained_on(queries, items, relevant, self.relation):
            said["trained_on"] = trained
        trial = _Trial(self, bench, relation, source, target, relevant, asked, seen, said)
        return Rivals(trial.measure, {name: trial.floor(name) for name in _FLOORS}) if self.floors else trial.measure

    def _table(self, bench: Bench, side: "Side") -> str:
        given = self.source if side == "source" else self.target
        if given is not None:
            return given
        found = isinstance(bench.version, Version) and bench.version.table_of(
            self.relation, side, kinds=("vectors", "mixture")
        )
        if not found:
            raise ConfigError(f"{self.name}: the version has no table for the {side} of {self.relation!r}: name one")
        return str(found)

    def _read(self, source: Source, queries: FeatureTable, items: FeatureTable) -> pd.DataFrame:
        wanted = {name: self.columns.get(name, name) for name in ("query", "candidate")}
        # As text first: ids such as 007 are strings to the table, whatever they look like.
        frame = read_frame(source, wanted, id_type="string")
        for column, table in (("query", queries), ("candidate", items)):
            frame = with_ids(frame, (column,), table.id_type)
        return frame.drop_duplicates(ignore_index=True)


@dataclass(frozen=True, eq=False)
class _Trial:
    task: LinkPrediction
    bench: Bench
    relation: RelationParameters
    source: str
    target: str
    relevant: pd.DataFrame
    asked: "pd.Series[Any]"
    seen: pd.DataFrame | None
    protocol: Mapping[str, Any]

    def measure(self, subject: Subject) -> Outcome:
        """Search, and count what was found."""
        return self._counted(*(self._popular() if subject.kind == "degree" else self._searched(subject)))

    def floor(self, name: str) -> Callable[[], Outcome]:
        """Return what fits a floor to the excluded pairs and measures its lists."""

        def measure() -> Outcome:
            seen = self.seen if self.seen is not None else self.relevant[:0]
            lists = _FLOORS[name].fit(seen).recommend(self.asked, self.task.cuts[-1], exclude=seen)
            return self._counted(lists, f"{name} of the {len(seen)} excluded pairs")

        return measure

    def _counted(self, lists: pd.DataFrame, said: str) -> Outcome:
        rankings = Rankings.from_candidates(lists, self.relevant)
        values = np.stack([recall_at_k(rankings, cut) for cut in self.task.cuts])  # (M, Q)

        def statistic(weight: Floats) -> Floats:
            means: Floats = values @ weight / len(weight)
            return means

        return Outcome.of(
            [f"recall@{cut}" for cut in self.task.cuts],
            statistic,
            len(rankings),
            bench=self.bench,
            groups=[self.task.relation] * len(values),
            unit="queries",
            protocol={**self.protocol, "vectors": said},
        )

    def _searched(self, subject: Subject) -> tuple[pd.DataFrame, str]:
        queries, items = (_stand_in(subject, name) for name in (self.source, self.target))
        relation = None if subject.kind == "random" else self.relation
        if relation is not None and relation.side == "target":
            items, relation = _moved(items, relation), None
        generate = CandidateGenerator.exact(queries, items, relation)
        lists = generate(self.asked, k=self.task.cuts[-1], exclude=self.seen, unknown="skip")
        return lists, ", ".join(_said(subject, name) for name in dict.fromkeys((self.source, self.target)))

    def _popular(self) -> tuple[pd.DataFrame, str]:
        if self.seen is not None:
            popularity, said = Popularity.fit(self.seen), "popularity: how often the excluded pairs have a candidate"
        else:
            degrees = degrees_of(self.bench.version, self.target)
            counts = pd.Series(
                degrees.values, index=pd.Index(self.bench.table(self.target).ids.to_pandas())
            ).sort_index()
            popularity, said = Popularity(counts.index, counts.to_numpy()), f"popularity: degrees {degrees.said}"
        return popularity.recommend(self.asked, self.task.cuts[-1], exclude=self.seen), said


def _relation(bench: Bench, name: str) -> RelationParameters:
    if not isinstance(bench.version, Version):
        raise ConfigError(f"the relation {name!r} is asked for, but tables alone came: links need a version")
    if name not in bench.version.relations:
        known = closest(name, bench.version.relations)
        raise ConfigError(f"version {bench.version.name!r} has no relation {name!r}; {known}")
    return bench.version.relations[name]


def _stand_in(subject: Subject, name: str) -> EmbeddingTable | Mixture:
    """Return a table that can be searched, of the version or of a baseline."""
    table = subject.bench.table(name)
    if subject.kind == "random":
        vectors = random_vectors(np.arange(table.count), table.dim, f"{subject.bench.seed} {name}")
        return EmbeddingTable.from_arrays(table.ids, vectors, entity=table.entity, version=table.version)
    ids = table.ids
    if subject.kind == "shuffled":  # the row of each id gets the vector of another: vectors stay, ids move
        ids = ids.take(pa.array(np.argsort(subject.bench.permuted(name))))
    elif not isinstance(table, PQTable):
        return table
    if isinstance(table, Mixture):
        return Mixture.from_rows(
            ids,
            table.component_rows,
            table.weights,
            components=table.components,
            entity=table.entity,
            name=table.components_name,
        )
    decoded, bias = (table.decode(), None) if isinstance(table, PQTable) else (table.vectors, table.bias)
    return EmbeddingTable.from_arrays(
        ids, decoded, entity=table.entity, version=table.version, comparator=table.comparator, bias=bias
    )


def _moved(items: EmbeddingTable | Mixture, relation: RelationParameters) -> EmbeddingTable:
    """Return targets as an operator moves them that belongs to the relation's other end."""
    if isinstance(items, Mixture):
        raise ConfigError(f"relation {relation.name!r} moves its targets, which are mixtures: they cannot be searched")
    return items.with_vectors(relation.apply(items.vectors))


def _said(subject: Subject, name: str) -> str:
    if subject.kind != "random" and subject.bench.table(name).kind == "mixture":
        return f"{name}: components, searched one by one" + (", given to other ids" * (subject.kind == "shuffled"))
    return subject.said(name)


def _trained_on(queries: FeatureTable, items: FeatureTable, relevant: pd.DataFrame, relation: str) -> str | None:
    """Say how many of the pairs are training edges, where the tables carry sketches of those."""
    overlaps = find_overlaps([("query", queries), ("candidate", items)], relevant)
    shares = [each.share for each in overlaps if each.relation == relation]
    return f"{shares[0]:.0%} of the pairs are training edges of the version" if shares else None
