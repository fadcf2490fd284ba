"""Link prediction of tables larger than memory: the ranks of ``evaluate``, counted while the tables pass by.

A rank is a count of candidates, so that no block of scores need be whole: questions are scored with one piece of the
table after the other.  First the vectors of both ends of the questions are picked out of the tables, and their true
answers out of the edges; then every table is walked once.  What one walk can hold is bounded; more questions than that
take several.
Letters: Q questions of a group, W candidates in a piece, N entities of a type, U anchors, A true answers.
"""

__all__ = ["evaluate_partitioned"]

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.config import Side, Sides, check_choice
from pretrain.edges import Edges
from pretrain.evaluate import SIDES, Evaluation, check_cuts, ranks_frame, said_of_filter
from pretrain.model import Model, Question
from pretrain.partitioned import PartitionedModel
from pretrain.partitioned_export import walk_edges
from pretrain.prepared import PreparedGraph
from pretrain.ranks import TIE, Rows, Scores, Ties, count_flags, rank_of
from recokit.errors import ConfigError, DataError, closest

_ENDS: Mapping[Side, tuple[int, int]] = {"target": (0, 1), "source": (1, 0)}  # the given end, the asked one
_SCORES = 1 << 20  # held at a time: 4 MB, what caches hold
_QUESTIONS = 512  # that are scored together
_WALK_QUESTIONS = 1 << 16  # of one walk
_WALK_ANSWERS = 1 << 24  # of one walk: 128 MB, and as much again for a group's; a hub with more has a walk to itself


def evaluate_partitioned(
    model: PartitionedModel,
    held_out: Mapping[str, Edges] | None = None,
    *,
    k: Sequence[int] = (1, 3, 10),
    sides: Sides = "both",
    relations: Sequence[str] | None = None,
    questions: int | None = None,
    filter: bool = True,
    seed: int = 0,
    ties: Ties = "mean",
    name: str = "model",
) -> Evaluation:
    """Rank the true ends of held-out edges among all entities of their type, as ``evaluate`` does.

    Args:
        model: What ``train_partitioned`` returned.
        held_out: Relation to edges that the model has not been trained on, as rows of the prepared graph; those that
            it has held out by default.
        k: Cut-offs of hits@k, whole numbers of at least 1.
        sides: Which ends are asked for.
        relations: Only these; all by default.
        questions: Ask about so many edges of each relation, drawn at random; about all by default.
        filter: Leave other true answers aside, those of the prepared graph's edges and of ``held_out``; ``False`` gives
            raw ranks.
        seed: Of the draw of questions.
        ties: Which of the ranks that it could have a tie takes: the mean, the last, or the first.
        name: Names the model in the results.

    Returns:
        Metrics and ranks; query and true rows are those of the prepared graph.

    Raises:
        ConfigError: An unknown relation or choice, or a value of no use.
        DataError: There is nothing to ask, or a row is not in the graph.
    """
    check_choice("evaluate", "sides", sides, get_args(Sides))
    check_choice("evaluate", "ties", ties, get_args(Ties))
    check_cuts(k)
    for what, number, least in (("questions", questions, 1), ("seed", seed, 0)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            raise ConfigError(f"evaluate: {what} must be a whole number of at least {least}, got {number!r}")
    prepared = model.prepared
    own = prepared.held_out()
    edges = {relation: _rows(prepared, relation, some) for relation, some in (held_out or own).items()}
    chosen = [each for each in edges if edges[each].shape[1]] if relations is None else relations
    parts: list[_Part] = []
    lacking = 0
    for relation in dict.fromkeys(chosen):
        if relation not in edges:
            raise ConfigError(f"evaluate: relation {relation!r} is not held out; {closest(relation, edges)}")
        drawn = _drawn(edges[relation], questions, [seed, list(prepared.relations).index(relation)])
        degrees = _degrees(prepared, relation, drawn)
        lacking += int(np.count_nonzero((degrees == 0).any(0)))
        for side in SIDES[sides] if drawn.shape[1] else ():
            parts.append(_Part(relation, side, drawn[list(_ENDS[side])], degrees[_ENDS[side][1]]))
    if not parts:
        raise DataError("evaluate: there is no held-out edge to ask about")
    others = [edges, {relation: _rows(prepared, relation, some) for relation, some in own.items()}] if filter else []
    for walk in _walks(prepared, parts):
        _rank(model, walk, _answers(prepared, walk, others, filter=filter), ties)
    asked = ranks_frame(
        [(p.relation, p.side, [*p.questions, p.degrees, p.rivals + 1], torch.from_numpy(p.ranks)) for p in parts]
    )
    history = [dict(entry) for entry in prepared.history("held_out") if "split" in entry] if held_out is None else []
    protocol = {
        "candidates": "all entities of the type",
        "filter": said_of_filter(1) if filter else "none: raw ranks",
        "ties": f"{ties} rank (within {TIE:g} of the vectors' sizes)",
        "sides": sides,
        "split": history,
        "unseen": f"keep ({lacking} edges with an end never trained, 0 with one not in the model)",
        **({} if questions is None else {"edges": f"at most {questions:,} of a relation, drawn with seed {seed}"}),
        "questions": len(asked),
    }
    return Evaluation.of(asked, name=name, k=k, protocol=protocol)


def _rows(prepared: PreparedGraph, relation: str, edges: Edges) -> Rows:
    """Return edges (2, E) if their rows are there."""
    if relation not in prepared.relations:
        raise ConfigError(f"evaluate: the graph has no relation {relation!r}; {closest(relation, prepared.relations)}")
    ends = prepared.relations[relation]
    for entity, rows in ((ends.source, edges.sources), (ends.target, edges.targets)):
        count = prepared.num_entities(entity)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
            found = f"{rows.min()} to {rows.max()}"
            raise DataError(f"evaluate: {relation!r} has rows {found} of {entity!r}, expected 0 to {count - 1}")
    return np.stack([edges.sources, edges.targets]).astype(np.int64, copy=False)


def _drawn(edges: Rows, questions: int | None, seed: list[int]) -> Rows:
    """Return edges (2, E), or so many of them in the same order."""
    total = edges.shape[1]
    if questions is None or questions >= total:
        return edges
    return edges[:, np.sort(np.random.default_rng(seed).choice(total, questions, replace=False, shuffle=False))]


def _degrees(prepared: PreparedGraph, relation: str, edges: Rows) -> Rows:
    ends = prepared.relations[relation]
    return np.stack(
        [prepared.degrees(each)[rows] for each, rows in zip((ends.source, ends.target), edges, strict=True)]
    )


# -- what is asked ---------------------------------------------------------------------------------------------------


class _Part:
    """The questions about one side of a relation, and what was found."""

    def __init__(self, relation: str, side: Side, questions: Rows, degrees: Rows) -> None:
        self.relation, self.side = relation, side
        self.questions = questions  # (2, Q) anchors and true answers
        self.degrees = degrees  # (Q,) of the true answers
        self.rivals = np.zeros(len(degrees), np.int64)
        self.ranks = np.zeros(len(degrees))

    def types(self, prepared: PreparedGraph) -> tuple[str, str]:
        """Return the given and the asked entity type."""
        ends = prepared.relations[self.relation]
        return (ends.source, ends.target) if self.side == "target" else (ends.target, ends.source)


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """Questions of a part that are scored together, in the order of their anchors."""

    part: _Part
    places: Rows  # (Q,) among the questions of the part
    about: int  # how many answers its anchors have, about

    @property
    def anchors(self) -> Rows:
        """Rows (Q,), ascending."""
        anchors: Rows = self.part.questions[0, self.places]
        return anchors

    @property
    def true(self) -> Rows:
        """Rows (Q,) of the true answers."""
        true: Rows = self.part.questions[1, self.places]
        return true


def _walks(prepared: PreparedGraph, parts: Sequence[_Part]) -> Iterator[list[_Group]]:
    """Gather what one walk through the tables can hold."""
    walk: list[_Group] = []
    answers = questions = 0
    for group in itertools.chain.from_iterable(_groups(prepared, part) for part in parts):
        answers, questions = answers + group.about, questions + len(group.places)
        if walk and (answers > _WALK_ANSWERS or questions > _WALK_QUESTIONS):
            yield walk
            walk, answers, questions = [], group.about, len(group.places)
        walk.append(group)
    yield walk


def _groups(prepared: PreparedGraph, part: _Part) -> Iterator[_Group]:
    """Cut the questions of a part by their anchors' answers."""
    order = np.argsort(part.questions[0], kind="stable")
    anchors = part.questions[0, order]
    given: Side = "source" if part.side == "target" else "target"
    costs = 1 + prepared.occurrences(part.relation, given)[anchors]
    first = np.diff(anchors, prepend=-1) > 0  # a group holds the answers of each anchor once
    answers = np.cumsum(np.where(first, costs, 0))
    start = 0
    while start < len(order):
        before = int(answers[start]) - int(costs[start])
        fitting = int(np.searchsorted(answers, before + _WALK_ANSWERS, side="right"))
        end = min(max(fitting, start + 1), start + _QUESTIONS, len(order))
        yield _Group(part, order[start:end], int(answers[end - 1]) - before)
        start = end


class _Answers:
    """Which candidates are no rivals in a group's questions: its true answers, and under a filter the other true ones.

    They are held once for each anchor, in the order of their rows.
    """

    def __init__(self, group: _Group, *, filter: bool) -> None:
        anchors = group.anchors if filter else np.arange(len(group.places))  # raw: every question for itself
        self.anchors, self._starts, self._lengths = np.unique(anchors, return_index=True, return_counts=True)
        self._keys: Rows = np.zeros(0, np.int64)  # (A,) row * U + number of the anchor
        self._found: list[Rows] = [] if filter else [group.true * len(anchors) + anchors]

    def add(self, anchors: Rows, rows: Rows) -> None:
        """Note true answers (A,) of anchors; those of other groups' anchors are left out."""
        numbers = np.searchsorted(self.anchors, anchors).clip(max=len(self.anchors) - 1)
        ours = self.anchors[numbers] == anchors
        self._found.append(rows[ours] * len(self.anchors) + numbers[ours])

    def sort(self) -> None:
        """End what ``add`` began."""
        self._keys = np.concatenate(self._found)
        self._found = []
        self._keys.sort()
        self._keys = self._keys[np.diff(self._keys, prepend=-1) > 0]

    def counts(self) -> Rows:
        """Return how many there are for each question (Q,)."""
        counts = np.bincount(self._keys % len(self.anchors), minlength=len(self.anchors))
        return np.repeat(counts, self._lengths)

    def pairs(self, rows: range) -> Rows:
        """Return pairs (2, A) of a question and a place among these rows."""
        first, last = np.searchsorted(self._keys, np.array([rows.start, rows.stop]) * len(self.anchors))
        found, numbers = np.divmod(self._keys[first:last], len(self.anchors))
        lengths = self._lengths[numbers]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return np.stack([np.repeat(self._starts[numbers], lengths) + within, np.repeat(found - rows.start, lengths)])


def _answers(
    prepared: PreparedGraph, groups: Sequence[_Group], held_out: Sequence[Mapping[str, Rows]], *, filter: bool
) -> list[_Answers]:
    """Find the true answers of groups of questions in one pass over all edges."""
    answers = [_Answers(group, filter=filter) for group in groups]
    by_part: dict[tuple[str, Side], list[_Answers]] = {}
    for group, found in zip(groups, answers, strict=True):
        by_part.setdefault((group.part.relation, group.part.side), []).append(found)
    wanted = {part: np.unique(np.concatenate([each.anchors for each in found])) for part, found in by_part.items()}

    def add(relation: str, ends: Sequence[NDArray[Any]], ranges: Sequence[range]) -> None:
        for side, (given, asked) in _ENDS.items():
            if (found := by_part.get((relation, side))) is None:
                continue
            rows, start = wanted[relation, side], ranges[given].start
            first, last = np.searchsorted(rows, [start, ranges[given].stop])
            # Of the edges' own type: what is looked for among small integers is looked up.
            places = np.flatnonzero(np.isin(ends[given], (rows[first:last] - start).astype(ends[given].dtype)))
            both = [ends[end][places].astype(np.int64) + ranges[end].start for end in (given, asked)]
            for each in found:
                each.add(*both)

    if filter:
        for part in walk_edges(prepared, {relation for relation, _ in by_part}):
            add(part.relation, (part.sources, part.targets), (part.source_rows, part.target_rows))
        for edges in held_out:
            for relation, rows in edges.items():
                ends = prepared.relations[relation]
                add(relation, list(rows), [range(prepared.num_entities(each)) for each in (ends.source, ends.target)])
    for each in answers:
        each.sort()
    return answers


# -- ranks -----------------------------------------------------------------------------------------------------------


class _Counting:
    """A group of questions, and how many rivals have been found to score no higher, and lower, than the true answers.

    Args:
        model: The relations and their parameters.
        group: The questions.
        answers: What is no rival.
        given: Vectors (Q, D) of the anchors.
        own: Vectors (Q, D) of the true answers.
        bias: Their biases (Q,), where the model has them.
    """

    def __init__(
        self, model: Model, group: _Group, answers: _Answers, *, given: Tensor, own: Tensor, bias: Tensor | None
    ) -> None:
        part, count = group.part, len(group.places)
        self.group, self._answers = group, answers
        # Types of its own for both ends, for what is a piece of a table here and may be one and the same there.
        ends = ("given", "asked") if part.side == "target" else ("asked", "given")
        relation = dataclasses.replace(model.relations[part.relation], source=ends[0], target=ends[1])
        self._model = dataclasses.replace(model, relations={part.relation: relation})
        question = self._question(given, own, bias, {})
        self._queries = question.queries
        scores = Scores(model.config, question, None)
        self._low, self._high = scores.thresholds(slice(None), np.arange(count), np.zeros(count, bool))
        self._not_above, self._below = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)

    def add(self, piece: "_Piece") -> None:
        """Count the rivals in a piece of the asked table."""
        question = self._question(self._queries[:0], piece.vectors, piece.bias, piece.prepared)
        question = dataclasses.replace(question, queries=self._queries)
        shared = question.candidates is piece.prepared.get("asked")
        scores = Scores(self._model.config, question, piece.offset if shared else None)
        if shared:
            piece.offset = scores.offset
        block, pairs = scores.block(slice(None), None), torch.from_numpy(self._answers.pairs(piece.rows))
        self._not_above += count_flags(block <= self._high, pairs)
        self._below += count_flags(block < self._low, pairs)

    def end(self, num_entities: int, ties: Ties) -> None:
        """Put the ranks in their places."""
        part, places = self.group.part, self.group.places
        part.rivals[places] = rivals = num_entities - self._answers.counts()
        ranks = rank_of(torch.from_numpy(rivals), self._not_above, self._below, ties)
        part.ranks[places] = ranks.numpy()

    def _question(self, given: Tensor, asked: Tensor, bias: Tensor | None, prepared: dict[str, Tensor]) -> Question:
        biases = {} if bias is None else {"asked": bias}
        model = dataclasses.replace(self._model, vectors={"given": given, "asked": asked}, biases=biases)
        part = self.group.part
        return model.question(part.relation, part.side, torch.arange(len(given)), prepared=prepared)


@dataclasses.dataclass
class _Piece:
    """Rows of a table, and what the questions about them share."""

    rows: range
    vectors: Tensor  # (W, D)
    bias: Tensor | None  # (W,)
    prepared: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    offset: Tensor | None = None


def _rank(model: PartitionedModel, groups: Sequence[_Group], answers: Sequence[_Answers], ties: Ties) -> None:
    """Find the ranks of groups of questions in two walks through the tables."""
    prepared, whole = model.prepared, model.without_entities()
    types = [group.part.types(prepared) for group in groups]
    wanted: dict[str, list[Rows]] = {}
    for group, (given, asked) in zip(groups, types, strict=True):
        wanted.setdefault(given, []).append(group.anchors)
        wanted.setdefault(asked, []).append(group.true)
    biases = {asked: _bias(model, asked) for _, asked in types} if model.config.bias else {}
    picked = {entity: _Picked(model, entity, np.unique(np.concatenate(rows))) for entity, rows in wanted.items()}
    by_type: dict[str, list[_Counting]] = {}
    for group, found, (given, asked) in zip(groups, answers, types, strict=True):
        counting = _Counting(
            whole,
            group,
            found,
            given=picked[given].of(group.anchors),
            own=picked[asked].of(group.true),
            bias=biases[asked][torch.from_numpy(group.true)] if biases else None,
        )
        by_type.setdefault(asked, []).append(counting)
    picked.clear()
    for asked, countings in by_type.items():
        width = max(1, _SCORES // max(len(counting.group.places) for counting in countings))
        for rows, chunk in model.store.table(asked):
            for start in range(0, len(rows), width):
                some, vectors = rows[start : start + width], torch.from_numpy(chunk[start : start + width])
                piece = _Piece(some, vectors, biases[asked][some.start : some.stop] if biases else None)
                for counting in countings:
                    counting.add(piece)
        for counting in countings:
            counting.end(prepared.num_entities(asked), ties)


class _Picked:
    """Some rows (Q,) of a table, ascending."""

    def __init__(self, model: PartitionedModel, entity: str, rows: Rows) -> None:
        self._rows = rows
        self._vectors = torch.empty(len(rows), model.config.dim)
        for chunk_rows, chunk in model.store.table(entity):
            first, last = np.searchsorted(rows, [chunk_rows.start, chunk_rows.stop])
            self._vectors[first:last] = torch.from_numpy(chunk[rows[first:last] - chunk_rows.start])

    def of(self, rows: Rows) -> Tensor:
        """Return the vectors (B, D) of rows that are among them."""
        return self._vectors[torch.from_numpy(np.searchsorted(self._rows, rows))]


def _bias(model: PartitionedModel, entity: str) -> Tensor:
    """Return the biases (N,) of a type, a few bytes an entity."""
    whole = torch.empty(model.prepared.num_entities(entity))
    for rows, chunk in model.store.table(entity, "bias"):
        whole[rows.start : rows.stop] = torch.from_numpy(chunk)
    return whole
